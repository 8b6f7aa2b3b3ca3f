"""The trial of the longest batch before the first step: it finds out, all ranks agree, and nothing of it stays."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from job.rundir import read_record
from tests.worker.fitting import Fitting
from tests.worker.strategies import Inputs, make_inputs, make_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


def fit(inputs: Inputs, root: Path, strategy: str, monkeypatch: pytest.MonkeyPatch, **fake: int) -> list[Fitting]:
    """How each rank fared; without *fake* there is no trial."""
    for name, value in fake.items():
        monkeypatch.setenv(name, str(value))
    run = make_run(inputs, root, strategy)
    # Dropout draws random numbers in the trial, which training must not miss.
    run = replace(run, module="tests.worker.fitting", settings=run.settings | {"lora_dropout": 0.1})
    run.attempt()
    written = [root / f"fitting{rank}.json" for rank in range(run.plan.num_processes)]
    return [read_record(path, Fitting) for path in written if path.exists()]


@pytest.mark.parametrize("strategy", ["single", "ddp", "fsdp"])
def test_a_trial_that_succeeds_changes_no_number(inputs, strategy, tmp_path, monkeypatch):
    without = fit(inputs, tmp_path / "without", strategy, monkeypatch)
    tried = fit(inputs, tmp_path / "tried", strategy, monkeypatch, FAKE_TOKENS=0)

    assert [one.losses for one in tried] == [one.losses for one in without]
    assert len(tried[0].losses) == tried[0].steps > 1


def longest_batch(inputs: Inputs) -> int:
    """Tokens of two rows, padded to the longer one."""
    with pa.memory_map(str(inputs.data / "train.arrow")) as file:
        return 2 * max(len(ids) for ids in pa.ipc.open_stream(file).read_all()["input_ids"].to_pylist())


def test_the_longest_rows_are_tried_together(inputs, tmp_path, monkeypatch):
    (found,) = fit(inputs, tmp_path, "single", monkeypatch, FAKE_TOKENS=0)

    assert found.tried_tokens == longest_batch(inputs)
    assert found.masked  # as most batches are, whose attention needs more memory


def test_when_one_rank_has_too_little_memory_all_stop_before_the_first_step(inputs, tmp_path, monkeypatch):
    ranks = fit(inputs, tmp_path, "ddp", monkeypatch, FAKE_TOKENS=longest_batch(inputs) - 1, FAKE_RANK=1)

    assert [rank.steps for rank in ranks] == [0, 0]
    assert ranks[1].error == "CUDA out of memory."
    assert ranks[0].error == "the longest batch does not fit on another GPU"
    assert [rank.held_gradients for rank in ranks] == [0, 0]


def test_a_rank_that_shares_the_model_ends_rather_than_let_the_others_wait(inputs, tmp_path, monkeypatch):
    ranks = fit(inputs, tmp_path, "fsdp", monkeypatch, FAKE_TOKENS=longest_batch(inputs) - 1, FAKE_RANK=1)

    assert [rank.error for rank in ranks] == ["CUDA out of memory."]  # the other was ended by the launcher
