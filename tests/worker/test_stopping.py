"""Training that is stopped, from outside or as it has diverged: after which step, with what left behind."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from job.checkpoints import newest_checkpoint
from job.errors import Diverged
from job.records import StopNotice, WorkerError
from job.rundir import read_record, write_json
from job.train.health import LEARN
from tests.tiny import ROOT
from tests.worker.agreeing import Heard
from tests.worker.strategies import STEPS, Inputs, Run, make_inputs, make_run

pytestmark = pytest.mark.slow

NEVER_DUE = 1000  # steps between checkpoints


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


def told_to_stop(run: Run, left_s: float) -> Run:
    """*run* with a stop file from the beginning: rank 0 sees it after the first step, and the others hear of it after
    the second."""
    notice = StopNotice(reason="a test", deadline=time.monotonic() + left_s)
    write_json(run.files.stop, notice)
    return run


def steps_saved(run: Run) -> list[int]:
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in run.files.checkpoints.glob("*"))


def saves(run: Run) -> list[dict[str, Any]]:
    """What the log says of every checkpoint."""
    events = map(json.loads, run.files.log.read_text().splitlines())
    return [event for event in events if event["event"] == "checkpoint"]


@pytest.mark.parametrize(("strategy", "step"), [("single", 1), ("ddp", 2)])
def test_all_ranks_stop_after_the_same_step_with_a_checkpoint_and_the_adapter(inputs, tmp_path, strategy, step):
    run = make_run(inputs, tmp_path / "run", strategy, save_steps=NEVER_DUE)
    run = told_to_stop(replace(run, settings=run.settings | {"warmup_steps": 0}), left_s=300).execute()

    assert (run.result.status, run.result.steps) == ("stopped", step)
    checkpoint = newest_checkpoint(run.files.checkpoints, run.plan)
    assert checkpoint.name == f"checkpoint-{step}"
    names = {path.name for path in checkpoint.iterdir()}
    assert {path.name for path in run.files.outgoing(step).iterdir()} == names
    assert not names & {"training_args.bin", "README.md"}
    assert run.result.adapter.changed_tensors == run.result.adapter.tensors
    assert load_file(run.adapter / "adapter_model.safetensors").keys()


def test_a_stop_without_the_time_for_a_checkpoint_comes_without(inputs, tmp_path):
    run = told_to_stop(make_run(inputs, tmp_path / "run", "single", save_steps=NEVER_DUE), left_s=0).execute()

    assert (run.result.status, run.result.steps) == ("stopped", 1)
    assert steps_saved(run) == []


def test_a_stop_at_the_last_step_is_a_finished_training(inputs, tmp_path):
    run = make_run(inputs, tmp_path / "run", "single", save_steps=NEVER_DUE)
    run = told_to_stop(replace(run, settings=run.settings | {"max_steps": 1, "warmup_steps": 0}), left_s=300).execute()

    assert (run.result.status, run.result.steps) == ("finished", 1)


def test_a_training_that_is_stopped_before_it_has_learned_anything_leaves_no_adapter(inputs, tmp_path):
    run = make_run(inputs, tmp_path / "run", "single", save_steps=NEVER_DUE)
    slow = run.settings | {"warmup_steps": 100, "max_steps": 200, "weight_decay": 0.0}  # the first step has rate 0
    run = told_to_stop(replace(run, settings=slow), left_s=300).execute()

    assert (run.result.status, run.result.adapter) == ("stopped", None)
    assert not run.adapter.exists()
    assert steps_saved(run) == [1]


@pytest.fixture(scope="module", params=["single", "ddp"])
def agreeing(request: pytest.FixtureRequest, inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = make_run(inputs, tmp_path_factory.mktemp("agreeing") / "run", request.param)
    return replace(run, module="tests.worker.agreeing", settings=run.settings | {"save_steps": "auto"}).execute()


def test_every_rank_hears_of_each_step_the_loss_over_all_of_them(agreeing):
    for rank in range(agreeing.plan.num_processes):
        told = read_record(agreeing.root / f"heard{rank}.json", Heard)
        assert [entry.step for entry in told.heard] == list(range(1, STEPS + 1))
        for heard, logged in zip(told.heard, told.logged, strict=True):
            assert heard.values == pytest.approx(logged.values, rel=1e-6)


def test_a_checkpoint_that_is_due_by_time_is_saved_once_by_all_ranks(agreeing):
    """Due after the fourth step, a minute of the fast clock after the first; two processes hear of it after the fifth.
    And after the last."""
    expected = [4, 7, 10] if agreeing.plan.num_processes == 1 else [5, 9, 10]
    assert [event["step"] for event in saves(agreeing)] == expected
    assert steps_saved(agreeing) == expected[-2:]  # the newest ones stay


@pytest.mark.parametrize("strategy", ["single", "ddp"])
def test_training_that_has_diverged_ends_every_rank_and_is_not_saved(inputs, tmp_path, strategy):
    run = make_run(inputs, tmp_path / "run", strategy, save_steps=1)
    run = replace(run, settings=run.settings | {"learning_rate": 1e30})

    assert run.attempt().returncode

    errors = [read_record(run.files.error(rank), WorkerError) for rank in range(run.plan.num_processes)]
    assert {error.code for error in errors} == {Diverged.exit_code}
    assert {error.cause for error in errors} == {"grad_norm is nan at step 2, with learning rate 9.00e+29."}
    assert steps_saved(run) == [1]
    assert newest_checkpoint(run.files.checkpoints, run.plan)


@pytest.fixture
def shortly_before(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run to go on with: four steps are left, in which its loss leaves the band that its first part has shown."""
    before = make_run(inputs, tmp_path / "before", "single", save_steps=LEARN)
    before = replace(before, settings=before.settings | {"max_steps": LEARN}).execute()
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "fakes" / "faults"))
    monkeypatch.setenv("FAKE_FAULT", f"spike@{LEARN + 1}")
    checkpoint = before.files.checkpoints / f"checkpoint-{LEARN}"
    settings = before.settings | {"max_steps": LEARN + 4, "save_steps": 1}
    return replace(before, root=tmp_path / "run", settings=settings, resume_from=checkpoint, forked=False)


def test_a_divergence_of_the_last_steps_is_not_published_and_a_resumed_run_sees_it_too(shortly_before):
    run = shortly_before

    assert run.attempt().returncode

    error = read_record(run.files.error(0), WorkerError)
    assert error.code == Diverged.exit_code
    assert f"at step {LEARN + 4}, the last of 4 in a row above" in error.cause
    assert not run.adapter.exists()
    assert steps_saved(run) == []


def test_a_training_that_is_stopped_as_it_may_be_diverging_leaves_no_adapter(shortly_before):
    run = told_to_stop(shortly_before, left_s=300).execute()

    assert (run.result.status, run.result.steps, run.result.adapter) == ("stopped", LEARN + 1, None)
    assert not run.adapter.exists()
    assert steps_saved(run) == []


def test_by_time_what_evaluates_best_so_far_is_saved_and_the_end(tmp_path):
    (tmp_path / "inputs").mkdir()
    with_eval = make_inputs(tmp_path / "inputs", eval_fraction=0.1)
    run = make_run(with_eval, tmp_path / "run", "single")
    run = replace(run, settings=run.settings | {"save_steps": "auto", "eval_fraction": 0.1, "eval_steps": 4}).execute()

    evaluated = {entry.step: entry.values["eval_loss"] for entry in run.result.eval_history}
    assert list(evaluated) == [0, 4, 8, 10]
    assert evaluated[0] > evaluated[4] > evaluated[8]
    assert {event["step"]: event["eval_loss"] for event in saves(run)} == {
        step: loss for step, loss in evaluated.items() if step
    }


def test_a_checkpoint_of_the_step_before_is_not_mixed_with_the_new_one(inputs, tmp_path):
    run = make_run(inputs, tmp_path / "run", "single", save_steps=6)
    for folder in (run.files.checkpoints / "checkpoint-6", run.files.outgoing(6)):
        folder.mkdir(parents=True)
        (folder / "rng_state_7.pth").touch()
    run.execute()

    for folder in (run.files.checkpoints / "checkpoint-6", run.files.outgoing(6)):
        assert (folder / "layout.json").exists()
        assert not (folder / "rng_state_7.pth").exists()
