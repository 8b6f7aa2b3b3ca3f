"""A resumed run is the run that was never interrupted: its numbers, its times, and its end."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.worker.strategies import SAVE_STEPS, STEPS, Inputs, Run, make_inputs, make_run, resumed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def finished(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(inputs, tmp_path_factory.mktemp("run") / "run", "single", save_steps=SAVE_STEPS).execute()


def times_of(checkpoint: Path) -> dict[str, Any]:
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    return state["stateful_callbacks"]["Progress"]["attributes"]


def events(run: Run) -> list[str]:
    return [json.loads(line)["event"] for line in run.files.log.read_text().splitlines()]


def test_times_are_those_of_both_parts(finished, tmp_path):
    checkpoint = tmp_path / f"checkpoint-{SAVE_STEPS}"
    shutil.copytree(finished.files.checkpoints / checkpoint.name, checkpoint)
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    times = {"train_s": 1000.0, "timed_steps": 5, "timed_s": 900.0}
    state["stateful_callbacks"]["Progress"]["attributes"] = times
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))

    again = replace(finished, root=tmp_path / "again", resume_from=checkpoint).execute().result

    assert again.timed_steps == 5 + STEPS - SAVE_STEPS - 1
    assert 1000.0 < again.train_runtime_s < 1060.0
    assert 900.0 < again.after_first_step_s < 960.0
    assert again.tokens == finished.result.tokens


def test_a_checkpoint_holds_the_times_until_then(finished):
    times = times_of(finished.files.checkpoints / f"checkpoint-{SAVE_STEPS}")

    assert times["timed_steps"] == SAVE_STEPS - 1
    assert 0 < times["timed_s"] < times["train_s"] < finished.result.train_runtime_s


def test_after_the_last_step_no_other_is_trained(finished, tmp_path):
    last = finished.files.checkpoints / f"checkpoint-{STEPS}"
    again = replace(finished, root=tmp_path / "again", resume_from=last).execute()

    assert (again.result.status, again.result.steps) == ("finished", STEPS)
    assert "first_step" not in events(again)
    assert (again.result.train_loss, again.result.tokens) == (finished.result.train_loss, finished.result.tokens)
    weights, expected = (load_file(run.adapter / "adapter_model.safetensors") for run in (again, finished))
    assert {name: tensor.tolist() for name, tensor in weights.items()} == {
        name: tensor.tolist() for name, tensor in expected.items()
    }


@pytest.mark.parametrize("strategies", [("ddp", "single"), ("single", "ddp")], ids=["2 to 1", "1 to 2"])
def test_another_number_of_processes_goes_on_with_the_same_rows(inputs, finished, tmp_path, strategies):
    first, then = strategies
    before = finished
    if first != "single":
        before = make_run(inputs, tmp_path / "before", first, save_steps=SAVE_STEPS).execute()
    checkpoint = before.files.checkpoints / f"checkpoint-{SAVE_STEPS}"

    after = make_run(inputs, tmp_path / "after", then)
    again = replace(after, resume_from=checkpoint).execute()

    assert again.losses == pytest.approx(finished.losses, abs=1e-5)
    assert again.result.tokens == finished.result.tokens


def test_checkpoints_come_as_often_as_this_attempt_asks(finished, tmp_path):
    checkpoint = finished.files.checkpoints / f"checkpoint-{SAVE_STEPS}"
    settings = finished.settings | {"save_steps": 2, "logging_steps": 3}

    again = replace(finished, root=tmp_path / "again", settings=settings, resume_from=checkpoint).execute()

    assert sorted(path.name for path in again.files.outbox.iterdir()) == ["step-00000008", "step-00000010"]
    assert [entry.step for entry in again.result.history if entry.step > SAVE_STEPS] == [8, 9, 10]


@pytest.mark.parametrize("strategy", ["single", "ddp"])
def test_dropout_goes_on_where_it_was(inputs, tmp_path, strategy):
    run = make_run(inputs, tmp_path / "run", strategy, save_steps=SAVE_STEPS)
    run = replace(run, settings=run.settings | {"lora_dropout": 0.3}).execute()

    assert resumed(run, tmp_path / "again").losses == run.losses


def test_across_epochs_a_resumed_run_has_the_same_rows(inputs, tmp_path):
    """200 rows in batches of 8: an epoch has 25 steps, and its end is a checkpoint too."""
    run = make_run(inputs, tmp_path / "run", "single", save_steps=25)
    run = replace(run, settings=run.settings | {"max_steps": 30, "lora_dropout": 0.3}).execute()
    at_its_end = run.files.checkpoints / "checkpoint-25"

    assert replace(run, root=tmp_path / "again", resume_from=at_its_end).execute().losses == run.losses
