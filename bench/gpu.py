"""Throughput and peak memory of the job on one GPU, with random weights of a real configuration (no download).

python bench/gpu.py [--steps 30] [--layers 32]; needs about 40 GB of disk for the 8B model and its copy in memory.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples" / "demo"))

SENTENCE = "the model reads a row and learns to answer what was asked in as few words as it can"
CASES = {
    "packed, 4,096": {"JOB_MAX_LENGTH": "4096", "JOB_PACKING": "true"},
    "unpacked, 1,024": {"JOB_MAX_LENGTH": "1024", "JOB_PACKING": "false"},
}


def make_model(folder: Path, rows: Path, layers: int) -> None:
    """Llama-3.1-8B's shape (its published config.json) with random weights and a tokenizer of its vocabulary size."""
    import torch
    from tiny import train_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = train_tokenizer(rows.read_text().splitlines(), 1000, 8192)
    config = LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=layers,
        num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=131072, rope_theta=500000.0,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()  # the job's process needs the memory
    tokenizer.save_pretrained(folder)


def make_rows(path: Path, count: int) -> None:
    """Rows of log-normal length, about 400 tokens on average."""
    generator = random.Random(0)
    with path.open("w") as file:
        for _ in range(count):
            length = min(3000, max(20, round(generator.lognormvariate(5.6, 0.8))))
            text = " ".join(generator.choices(SENTENCE.split(), k=length))
            file.write(json.dumps({"prompt": text[: len(text) // 4], "completion": text[len(text) // 4 :]}) + "\n")


def run_case(folder: Path, name: str, settings: dict[str, str], steps: int) -> None:
    output = folder / f"out-{len(list(folder.glob('out-*')))}"
    env = {key: value for key, value in os.environ.items() if not key.startswith("JOB_")} | {
        "JOB_MODEL": str(folder / "model"),
        "JOB_DATASET_URI": str(folder / "rows.jsonl"),
        "JOB_OUTPUT_URI": str(output),
        "JOB_WORK_DIR": str(folder / "work"),
        "JOB_MAX_STEPS": str(steps),
        "JOB_NUM_PROCESSES": "1",
    }
    subprocess.run([sys.executable, "entrypoint.py"], cwd=ROOT, env=env | settings, check=True)
    metrics = json.loads((output / "metrics.json").read_text())
    train, gpu = metrics["train"], metrics["hardware"]["gpus"][0]["name"]
    print(f"| {gpu} | {name} | {train['tokens_per_s']:,.0f} | {train['peak_gpu_memory_gib']} | {train['loss']:.4f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the job on one GPU.")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--layers", type=int, default=32, help="32 is the 8B model")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_rows(folder / "rows.jsonl", 4000)
        make_model(folder / "model", folder / "rows.jsonl", args.layers)
        print("| device | case | tokens/s | peak GiB | loss |\n|---|---|---|---|---|")
        for name, settings in CASES.items():
            run_case(folder, name, settings, args.steps)


if __name__ == "__main__":
    main()
