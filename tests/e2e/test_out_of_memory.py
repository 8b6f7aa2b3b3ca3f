"""Memory runs out in the middle of training: the job goes on with less at a time, and learns the same."""

import json
from pathlib import Path

import pytest

from job.report.metrics import Metrics
from tests.e2e.job import Ended, run
from tests.tiny import ROOT

pytestmark = pytest.mark.slow

STEPS = 8
SETTINGS = {
    "JOB_MAX_STEPS": str(STEPS), "JOB_GLOBAL_BATCH_SIZE": "8", "JOB_PER_DEVICE_TRAIN_BATCH_SIZE": "4",
    "JOB_SAVE_STEPS": "1", "JOB_LOGGING_STEPS": "1", "PYTHONPATH": str(ROOT / "tests" / "fakes" / "memory"),
}  # fmt: skip


def train(env: dict[str, str], folder: Path, **fake: object) -> tuple[Ended, Metrics | None]:
    places = {"JOB_OUTPUT_URI": str(folder / "output"), "JOB_WORK_DIR": str(folder / "work")}
    ended = run(env | SETTINGS | places | {name: str(value) for name, value in fake.items()})
    written = folder / "output" / "metrics.json"
    return ended, Metrics.model_validate_json(written.read_bytes()) if written.exists() else None


def losses(metrics: Metrics) -> list[float]:
    return [entry.values["loss"] for entry in metrics.train.history]


@pytest.fixture
def sizes(env, tmp_path) -> tuple[list[int], Metrics]:
    """Tokens of each micro-batch of an undisturbed run, and its metrics."""
    ended, metrics = train(env, tmp_path / "undisturbed", FAKE_SEEN=tmp_path / "seen")
    assert ended.code == 0, ended.shown
    assert metrics is not None
    return list(map(int, (tmp_path / "seen").read_text().split())), metrics


def test_a_batch_that_is_too_large_in_the_middle_is_halved_and_the_run_learns_the_same(env, tmp_path, sizes):
    tokens, undisturbed = sizes
    largest = tokens.index(max(tokens))
    assert largest >= 2, "the largest micro-batch is in the first step, so there is no middle"

    ended, metrics = train(env, tmp_path / "tight", FAKE_TOKENS=max(tokens) - 1)

    assert ended.code == 0, ended.shown
    assert metrics is not None
    assert metrics.plan.fallbacks == ("per-device batch 4 → 2, accumulation 2 → 4",)
    assert metrics.plan.global_batch_size == undisturbed.plan.global_batch_size
    assert f"and on from checkpoint-{largest // 2}" in ended.shown
    assert metrics.train.steps == STEPS
    assert ended.shown.count("step 1/8") == 1  # what was said before is not said again
    assert losses(metrics) == pytest.approx(losses(undisturbed), abs=1e-5)
    assert metrics.train.loss == pytest.approx(undisturbed.train.loss, abs=1e-5)
    assert metrics.train.tokens == undisturbed.train.tokens


@pytest.mark.thorough
def test_one_rank_that_runs_out_takes_the_others_along_to_the_smaller_batch(env, tmp_path):
    two = env | {"JOB_NUM_PROCESSES": "2"}
    assert train(two, tmp_path / "undisturbed", FAKE_SEEN=tmp_path / "seen")[0].code == 0
    largest = max(map(int, (tmp_path / "seen").read_text().split()))  # it is on one of the two

    ended, metrics = train(two, tmp_path / "tight", FAKE_TOKENS=largest - 1)

    assert ended.code == 0, ended.shown
    assert metrics is not None
    assert metrics.plan.fallbacks == ("per-device batch 4 → 2, accumulation 1 → 2",)


@pytest.mark.thorough
def test_a_gpu_that_holds_nothing_is_91_with_all_that_was_given_up(env, tmp_path):
    ended, _ = train(env, tmp_path, FAKE_TOKENS=1)

    assert ended.code == 91, ended.shown
    assert "after giving up: per-device batch 4 → 2" in ended.outcome["cause"]
    assert "gradient checkpointing on" in ended.outcome["cause"]
    attempt = json.loads((tmp_path / "output" / "attempts" / "0001" / "plan.json").read_text())
    assert attempt["gradient_checkpointing"]
    assert not (tmp_path / "output" / "adapter").exists()
