"""Memory that really runs out: somebody else takes it after the plan was made."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.job import Ended, end, logged, run, start
from tests.gpu.ballast import ballast
from tests.gpu.machine import NEEDS_GPU
from tests.tiny import write_model, write_rows

pytestmark = NEEDS_GPU

LENGTH = 4096
# Of what the plan foresees. Half of the micro-batch needs about 0.6 of it, as most of it is activations.
LEFT = 0.8


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Wide layers and long rows: the activations of 8 rows take several GiB, all else less than one."""
    rows = write_long_rows(tmp_path / "rows.jsonl", 64)
    return {
        "JOB_MODEL": str(write_model(tmp_path / "model", rows, max_length=LENGTH, hidden_size=2048)),
        "JOB_DATASET_URI": str(rows),
        "JOB_COLUMNS": "prompt=question,completion=answer",
        "JOB_ALLOW": "truncation",
        "JOB_OUTPUT_URI": str(tmp_path / "output"),
        "JOB_WORK_DIR": str(tmp_path / "work"),
        "JOB_MAX_LENGTH": str(LENGTH),
        "JOB_MAX_STEPS": "4",
        "JOB_LOGGING_STEPS": "1",
        "JOB_STRATEGY": "single",
        "JOB_QUANTIZATION": "none",
        "JOB_PACKING": "false",
        "JOB_GRADIENT_CHECKPOINTING": "false",
        "JOB_PER_DEVICE_TRAIN_BATCH_SIZE": "8",
        "JOB_GLOBAL_BATCH_SIZE": "8",
    }


def write_long_rows(path: Path, count: int) -> Path:
    """Rows of more than LENGTH tokens, each of many sums."""
    sums = [json.loads(line) for line in write_rows(path, 100 * count).read_text().splitlines()]
    rows = [
        {"question": part[0]["question"], "answer": " ".join(one["answer"] for one in part)}
        for part in (sums[i : i + 100] for i in range(0, len(sums), 100))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_beside(env: dict[str, str], go: Path) -> Ended:
    """The job, and once it has planned, somebody who leaves less than it needs."""
    work = Path(env["JOB_WORK_DIR"])
    with ballast(go) as other:
        began, job = time.monotonic(), start(env)
        while not logged(work, "plan"):
            assert job.poll() is None, job.communicate()
            time.sleep(0.02)
        [plan] = work.glob("runs/*/plan.json")
        go.write_text(str(LEFT * sum(item["gib"] for item in json.loads(plan.read_text())["memory"]["items"])))
        assert other.stdout.readline().startswith("took ")
        return end(job, began)


def metrics_of(env: dict[str, str]) -> dict[str, Any]:
    return json.loads((Path(env["JOB_OUTPUT_URI"]) / "metrics.json").read_text())


def test_a_job_that_runs_out_of_memory_halves_its_micro_batch_and_learns_the_same(env, tmp_path):
    beside = run_beside(env, tmp_path / "go")
    alone = run(env | {"JOB_OUTPUT_URI": str(tmp_path / "alone")})

    assert (beside.code, alone.code) == (0, 0), beside.shown + alone.shown
    less, whole = metrics_of(env), metrics_of(env | {"JOB_OUTPUT_URI": str(tmp_path / "alone")})
    plan = less["plan"]
    assert "per-device batch 8 → 4, accumulation 1 → 2" in plan["fallbacks"]
    assert plan["per_device_train_batch_size"] * plan["gradient_accumulation_steps"] == 8
    assert (plan["global_batch_size"], less["train"]["tokens"]) == (8, whole["train"]["tokens"])
    assert less["train"]["loss"] == pytest.approx(whole["train"]["loss"], rel=0.01)
    assert (whole["plan"]["per_device_train_batch_size"], whole["plan"]["fallbacks"]) == (8, [])
