"""The loading snippet of the model card, executed as it stands."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.job import run
from tests.thorough import some

pytestmark = pytest.mark.slow

# What a person would do next: ask something, and compare with the base.
NEXT = """
import torch
ids = tokenizer("What is 1 plus 2?", return_tensors="pt")
with torch.no_grad():
    tuned = model(**ids).logits
    with model.disable_adapter():
        before = model(**ids).logits
print((tuned - before).abs().max().item(), tuned.shape[-1])
"""


def snippet(adapter: Path) -> str:
    """The only Python in the card of *adapter*."""
    (code,) = re.findall(r"```python\n(.*?)```", (adapter / "README.md").read_text(), re.DOTALL)
    return str(code)


def loaded(adapter: Path) -> tuple[float, int]:
    """How far the adapter that the snippet loads moves its base, and how many numbers the model gives."""
    done = subprocess.run(
        [sys.executable, "-c", snippet(adapter) + NEXT], cwd=adapter.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    moved, outputs = done.stdout.split()
    return float(moved), int(outputs)


@pytest.mark.parametrize("adapter", some(["lora", "prefix"], always=["lora"]))
def test_the_card_loads_the_adapter(env, tmp_path, adapter):
    ended = run(env | {"JOB_ADAPTER": adapter} | ({"JOB_LEARNING_RATE": "0.1"} if adapter == "prefix" else {}))

    assert ended.code == 0, ended.shown
    moved, outputs = loaded(tmp_path / "output" / "adapter")
    assert moved > 1e-4
    assert outputs == json.loads((Path(env["JOB_MODEL"]) / "config.json").read_text())["vocab_size"]


@pytest.mark.thorough
def test_the_card_loads_a_reward_model(env, tmp_path, rows):
    pairs = tmp_path / "pairs.jsonl"
    with pairs.open("w") as file:
        for row in map(json.loads, rows.read_text().splitlines()):
            pair = {"prompt": row["question"], "chosen": row["answer"], "rejected": "No idea."}
            file.write(json.dumps(pair) + "\n")
    settings = {"JOB_METHOD": "reward", "JOB_DATASET_URI": str(pairs), "JOB_COLUMNS": "", "JOB_PACKING": ""}

    ended = run(env | settings)

    assert ended.code == 0, ended.shown
    moved, outputs = loaded(tmp_path / "output" / "adapter")
    assert (moved > 1e-4, outputs) == (True, 1)
