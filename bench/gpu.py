"""Whole jobs on one GPU: throughput and peak memory, with random weights of a real configuration (no download).

python bench/gpu.py [--steps 30] [--model meta-llama/Llama-3.1-8B]; needs about 40 GB of disk for the 8B model and its
copy in memory. The plan is the job's own: bench/memory_grid.py measures settings that are chosen by hand.
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
sys.path.insert(0, str(ROOT))

from bench.random_model import MODELS, SENTENCE, make_model  # noqa: E402

CASES = {
    "packed, 4,096": {"JOB_MAX_LENGTH": "4096", "JOB_PACKING": "true"},
    "unpacked, 1,024": {"JOB_MAX_LENGTH": "1024", "JOB_PACKING": "false"},
}


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
    train, plan, gpu = metrics["train"], metrics["plan"], metrics["hardware"]["gpus"][0]["name"]
    foreseen = f"{plan['forecast']['tokens_per_s']:,.0f}" if plan["forecast"] else ""
    cells = (gpu, name, f"{train['tokens_per_s']:,.0f}", foreseen, train["peak_gpu_memory_gib"], f"{train['loss']:.4f}")
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the job on one GPU.")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--model", choices=MODELS, default="meta-llama/Llama-3.1-8B")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_rows(folder / "rows.jsonl", 4000)
        make_model(folder / "model", args.model)
        print("| device | case | tokens/s | foreseen | peak GiB | loss |\n|---|---|---|---|---|---|", flush=True)
        for name, settings in CASES.items():
            run_case(folder, name, settings, args.steps)


if __name__ == "__main__":
    main()
