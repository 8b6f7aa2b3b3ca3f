"""All weights through the entrypoint: a model that anybody can load, from which the next run can start."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.job import run
from tests.e2e.test_cards import snippet

pytestmark = pytest.mark.slow
ASK = """
print(model(**tokenizer("What is 1 plus 2?", return_tensors="pt")).logits.shape[-1])
"""


def test_a_model_is_published_whole_and_the_next_run_starts_from_it(env, tmp_path):
    settings = {
        "JOB_ADAPTER": "full",
        "JOB_LEARNING_RATE": "1e-3",
        "JOB_EVAL_FRACTION": "0.2",
        "JOB_EVAL_GENERATE": "4",
    }

    ended = run(env | settings)

    assert ended.code == 0, ended.shown
    output = tmp_path / "output"
    published = json.loads((output / "manifest.json").read_text())["files"]
    assert {"model/model.safetensors", "model/config.json", "model/README.md"} <= published.keys()
    assert not any(name.startswith("adapter/") for name in published)
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["adapter"] == "full"
    assert metrics["proof"]["gate"]["learned"] == metrics["proof"]["gate"]["tensors"]
    assert metrics["eval"]["loss"] < metrics["eval"]["loss_before"]
    assert len(metrics["eval"]["scores"]) > 0
    assert str(tmp_path) not in (output / "model" / "config.json").read_text()
    assert loaded(output / "model") == json.loads((Path(env["JOB_MODEL"]) / "config.json").read_text())["vocab_size"]

    onward = {"JOB_MODEL": str(output / "model"), "JOB_OUTPUT_URI": str(tmp_path / "onward")}
    again = run(env | onward)

    assert again.code == 0, again.shown
    assert (tmp_path / "onward" / "adapter" / "adapter_model.safetensors").exists()
    assert run(env | settings).code == 0


def loaded(folder: Path) -> int:
    """How many numbers the model gives that the card of *folder* loads."""
    done = subprocess.run(
        [sys.executable, "-c", snippet(folder) + ASK], cwd=folder.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
