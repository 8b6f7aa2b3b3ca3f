"""A tiny random Llama and a few real rows, made on the spot."""

import json
import random
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GSM8K = ROOT.parent / "shared" / "data" / "gsm8k_train.jsonl"


def write_rows(path: Path, count: int = 120, seed: int = 0) -> Path:
    """Sums in words, as ``question`` and ``answer``, of varied length."""
    generator = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            terms = [generator.randrange(100) for _ in range(generator.randrange(2, 12))]
            steps = ", ".join(str(sum(terms[: n + 1])) for n in range(len(terms)))
            row = {
                "question": "What is " + " plus ".join(map(str, terms)) + "?",
                "answer": f"{steps}. #### {sum(terms)}",
            }
            file.write(json.dumps(row) + "\n")
    return path


def write_model(
    folder: Path, corpus: Path, vocab_size: int = 320, max_length: int = 512, hidden_size: int = 64
) -> Path:
    """A two-layer Llama with random weights and a tokenizer trained on *corpus*."""
    script = ROOT / "bench" / "make_tiny_model.py"
    sizes = ["--vocab-size", vocab_size, "--max-length", max_length, "--hidden-size", hidden_size]
    arguments = [folder, "--corpus", corpus, *sizes]
    subprocess.run([sys.executable, script, *map(str, arguments)], check=True, capture_output=True)
    return folder


def write_talks(path: Path, rows: Path) -> Path:
    """The rows of `write_rows` as conversations."""
    with path.open("w", encoding="utf-8") as file:
        for row in map(json.loads, rows.read_text(encoding="utf-8").splitlines()):
            turns = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
            file.write(json.dumps({"messages": turns}) + "\n")
    return path


def write_base_model(folder: Path, model: Path) -> Path:
    """*model* as base models are: without a chat template, and without the tokens of ChatML."""
    folder.mkdir()
    for file in model.iterdir():
        if file.name != "chat_template.jinja":
            content = file.read_bytes()
            is_text = file.suffix == ".json"
            (folder / file.name).write_bytes(content.replace(b"<|im_", b"<|turn_") if is_text else content)
    return folder
