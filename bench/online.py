"""RLOO and GRPO against a bare TRL script: equal numbers, and what the job's own parts cost a step.

    python bench/online.py

Prints a row a method for docs/benchmarks.md. Both sides draw the answers of a tiny model in this process, on the CPU.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from tests.tiny import write_model, write_rows
from tests.worker import test_online as online

NAMES = ("loss", "grad_norm", "reward")


def main() -> None:
    print("| method | largest difference in loss, gradient norm, reward | job | bare TRL |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = write_model(folder / "model", write_rows(folder / "rows.jsonl", 20))
        data = online.prepare_prompts(model, folder / "rows.jsonl", folder / "data")
        for method in online.METHODS:
            began = time.monotonic()
            ours = online.history(online.run(model, data, folder / method, method))
            between = time.monotonic()
            theirs = online.bare(model, data, folder / f"bare-{method}", method)
            ended = time.monotonic()
            apart = ", ".join(f"{_apart(ours, theirs, name):.1e}" for name in NAMES)
            print(f"| {method} | {apart} | {between - began:.1f} s | {ended - between:.1f} s |", flush=True)


def _apart(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], name: str) -> float:
    return max(abs(one[name] - other[name]) for one, other in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    main()
