"""Does a method teach? ``python bench/methods.py sft|dpo|kto|reward``: a tiny model on real rows, through the real
entrypoint, measured on rows that were held out. Lines of docs/benchmarks.md."""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
if not DATA.exists():
    DATA = Path("/work/shared/data")
ROWS = 600
# Columns of the evaluations' entries that tell whether the method has taught something.
SHOWN = {
    "sft": ("eval_loss",),
    "dpo": ("eval_loss", "eval_rewards/margins", "eval_rewards/accuracies"),
    "kto": ("eval_loss", "eval_rewards/margins"),
    "reward": ("eval_loss", "eval_margin", "eval_accuracy"),
}
Row = dict[str, Any]


def gsm8k() -> list[Row]:
    lines = (DATA / "gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()[: ROWS + 1]
    return [json.loads(line) for line in lines]


def answers() -> Iterator[Row]:
    for row in gsm8k():
        yield {"prompt": row["question"] + "\n", "completion": row["answer"]}


def pairs() -> Iterator[Row]:
    """The right answer against that of the next question."""
    rows = gsm8k()
    for row, other in zip(rows, [*rows[1:], rows[0]], strict=True):
        yield {"prompt": row["question"] + "\n", "chosen": row["answer"], "rejected": other["answer"]}


def separable() -> Iterator[Row]:
    """The right answer against its own words in disorder: whoever reads it can tell which is which."""
    generator = random.Random(0)
    for row in gsm8k():
        words = row["answer"].split(" ")
        yield {"prompt": row["question"] + "\n", "chosen": row["answer"],
               "rejected": " ".join(generator.sample(words, len(words)))}  # fmt: skip


def stack_exchange() -> Iterator[Row]:
    for row in json.loads((DATA / "stack_exchange_paired.json").read_text(encoding="utf-8")):
        yield {"prompt": row["question"] + "\n", "chosen": row["response_j"], "rejected": row["response_k"]}


SETS: dict[str, dict[str, Callable[[], Iterator[Row]]]] = {
    "sft": {"GSM8K": answers},
    "dpo": {"GSM8K pairs": pairs, "StackExchange pairs": stack_exchange},
    "kto": {"GSM8K pairs": pairs},
    "reward": {"GSM8K answers, words in disorder": separable},
}


def train(method: str, rows: list[Row], folder: Path) -> dict[str, Any]:
    """metrics.json of a run."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model = folder / "model"
    maker = [sys.executable, "bench/make_tiny_model.py", str(model), "--corpus", str(path), "--vocab-size", "1024"]
    subprocess.run([*maker, "--max-length", "1024"], cwd=ROOT, check=True, capture_output=True)
    few = len(rows) < ROWS
    settings = {
        "JOB_MODEL": str(model),
        "JOB_DATASET_URI": str(path),
        "JOB_OUTPUT_URI": str(folder / "output"),
        "JOB_WORK_DIR": str(folder / "work"),
        "JOB_METHOD": method,
        "JOB_LEARNING_RATE": "1e-3",  # adapters of a tiny random model take more than those of a trained one
        "JOB_GLOBAL_BATCH_SIZE": "4" if few else "8",
        "JOB_NUM_TRAIN_EPOCHS": "10" if few else "1",
        "JOB_EVAL_FRACTION": "0.2" if few else "0.1",
        "JOB_MAX_LENGTH": "1024" if few else "512",
        "JOB_ALLOW": "truncation,nothing_to_learn",
        "JOB_STRATEGY": "cpu",
    }
    env = {name: value for name, value in os.environ.items() if not name.startswith("JOB_")} | settings
    done = subprocess.run([sys.executable, "entrypoint.py"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    metrics: dict[str, Any] = json.loads((folder / "output" / "metrics.json").read_text())
    return metrics


def main() -> None:
    method = sys.argv[1]
    print("| method | rows | trained, held out | steps | held out | before | after |\n|---|---|---|---|---|---|---|")
    for name, make in SETS[method].items():
        with tempfile.TemporaryDirectory() as scratch:
            metrics = train(method, list(make()), Path(scratch))
        before, after = metrics["eval"]["history"][0]["values"], metrics["eval"]["history"][-1]["values"]
        data, steps = metrics["data"], metrics["train"]["steps"]
        for column in SHOWN[method]:
            shown = column.removeprefix("eval_")
            print(
                f"| `{method}` | {name} | {data['rows']}, {data['eval_rows']} | {steps} | {shown} "
                f"| {before[column]:.4f} | {after[column]:.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
