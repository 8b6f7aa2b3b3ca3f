"""Make a tiny Llama with random weights and a tokenizer trained on a JSONL, for tests and benchmarks.

python bench/make_tiny_model.py OUT_DIR --corpus rows.jsonl
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "demo"))
from tiny import random_llama, save, train_tokenizer


def strings(value: Any) -> Iterator[str]:
    """Every string in a JSON value, chat messages included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def texts_of(path: Path) -> Iterator[str]:
    """Every string of every row of a JSONL."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield from strings(json.loads(line))


def main() -> None:
    """Tokenizer, random weights, files."""
    parser = argparse.ArgumentParser(description="Make a tiny random Llama.")
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--corpus", type=Path, required=True, help="JSONL to train the tokenizer on")
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--hidden-size", type=int, default=64, help="a multiple of 8: four heads of even size")
    parser.add_argument("--max-length", type=int, default=2048, help="tokens that the model can read")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    tokenizer = train_tokenizer(texts_of(args.corpus), args.vocab_size, args.max_length)
    save(random_llama(tokenizer, args.hidden_size, args.seed), tokenizer, args.out_dir)


if __name__ == "__main__":
    main()
