"""Does a method teach? ``python bench/methods.py sft|dpo|kto|reward|rloo|grpo``: a tiny model on real rows, through the
real entrypoint, measured on rows that were held out. Lines of docs/benchmarks.md."""

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
ROWS = 200
# What the log says of training, and with eval_ of rows that are held out.
SHOWN = {
    "sft": ("eval_loss",),
    "dpo": ("loss", "rewards/margins", "eval_loss", "eval_rewards/margins", "eval_rewards/accuracies"),
    "kto": ("loss", "rewards/margins", "eval_loss", "eval_rewards/margins"),
    "reward": ("eval_loss", "eval_margin", "eval_accuracy"),
    "rloo": ("reward",),
    "grpo": ("reward",),
}
# What a model that has learned nothing can be taught by reward: to begin its answer with a digit.
# Its head has to learn as well: a random one of unit-sized states makes no token much likelier than another.
ONLINE = {
    "JOB_MODULES_TO_SAVE": "lm_head",
    "JOB_REWARDS": "regex",
    "JOB_REWARD_PATTERN": r"^\s*\d",
    "JOB_MAX_COMPLETION_LENGTH": "8",
    "JOB_NUM_GENERATIONS": "8",
    "JOB_GLOBAL_BATCH_SIZE": "64",
    "JOB_MAX_STEPS": "150",
    "JOB_LEARNING_RATE": "1e-2",
    "JOB_LR_SCHEDULER_TYPE": "constant",
    "JOB_EVAL_FRACTION": "0",
}
Row = dict[str, Any]


def gsm8k(skip: int = 0, rows: int = ROWS) -> list[Row]:
    lines = (DATA / "gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[skip : skip + rows]]


def questions() -> Iterator[Row]:
    for row in gsm8k():
        yield {"prompt": row["question"] + "\n"}


def answers() -> Iterator[Row]:
    for row in gsm8k():
        yield {"prompt": row["question"] + "\n", "completion": row["answer"]}


def pairs() -> Iterator[Row]:
    """The right answer against that of another question, which is the right one nowhere here: else what is learned of
    one row would be unlearned in the next."""
    for row, other in zip(gsm8k(), gsm8k(skip=ROWS), strict=True):
        yield {"prompt": row["question"] + "\n", "chosen": row["answer"], "rejected": other["answer"]}


def separable() -> Iterator[Row]:
    """The right answer against its own words in disorder: whoever reads it can tell which is which. As many as leave a
    hundred pairs and more to rank."""
    generator = random.Random(0)
    for row in gsm8k(rows=1500):
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
    "rloo": {"questions of GSM8K": questions},
    "grpo": {"questions of GSM8K": questions},
}


def train(method: str, rows: list[Row], folder: Path) -> dict[str, Any]:
    """metrics.json of a run."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model = folder / "model"
    maker = [sys.executable, "bench/make_tiny_model.py", str(model), "--corpus", str(path), "--vocab-size", "1024"]
    subprocess.run([*maker, "--max-length", "1024"], cwd=ROOT, check=True, capture_output=True)
    few = len(rows) < ROWS // 2
    settings = {
        "JOB_MODEL": str(model),
        "JOB_DATASET_URI": str(path),
        "JOB_OUTPUT_URI": str(folder / "output"),
        "JOB_WORK_DIR": str(folder / "work"),
        "JOB_METHOD": method,
        "JOB_LEARNING_RATE": "1e-3",  # adapters of a tiny random model take more than those of a trained one
        "JOB_GLOBAL_BATCH_SIZE": "4" if few else "8",
        "JOB_NUM_TRAIN_EPOCHS": "6" if few else "2",
        "JOB_EVAL_FRACTION": "0.2" if few else "0.1",
        "JOB_MAX_LENGTH": "768" if few else "256",
        "JOB_ALLOW": "truncation,nothing_to_learn",
        "JOB_STRATEGY": "cpu",
        **(ONLINE if method in ("rloo", "grpo") else {}),
    }
    env = {name: value for name, value in os.environ.items() if not name.startswith("JOB_")} | settings
    done = subprocess.run([sys.executable, "entrypoint.py"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    metrics: dict[str, Any] = json.loads((folder / "output" / "metrics.json").read_text())
    return metrics


def main() -> None:
    method = sys.argv[1]
    print("| method | rows | trained, held out | steps | figure | first | last |\n|---|---|---|---|---|---|---|")
    for name, make in SETS[method].items():
        with tempfile.TemporaryDirectory() as scratch:
            metrics = train(method, list(make()), Path(scratch))
        data, steps = metrics["data"], metrics["train"]["steps"]
        for column in SHOWN[method]:
            entries = [entry["values"] for entry in metrics["train" if column[:5] != "eval_" else "eval"]["history"]]
            told = [values[column] for values in entries if column in values]
            print(
                f"| `{method}` | {name} | {data['rows']}, {data['eval_rows']} | {steps} | {column} "
                f"| {told[0]:.4f} | {told[-1]:.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
