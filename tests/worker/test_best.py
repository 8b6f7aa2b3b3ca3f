"""The adapter of the best evaluation is the one that is handed out, wherever training went on."""

from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from job.checkpoints import BEST, newest_checkpoint
from job.records import Layout
from job.rundir import read_record
from tests.worker.strategies import Run, make_inputs, make_run

pytestmark = pytest.mark.slow

SETTINGS = {
    "learning_rate": 0.05, "lr_scheduler_type": "constant", "eval_fraction": 0.5, "eval_steps": 2, "max_steps": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Rows that all say one token again and again, of which those that are held out know nothing: they only get
    worse."""
    made = make_inputs(tmp_path_factory.mktemp("inputs"), eval_fraction=0.5, rows=16)
    rows = Dataset.from_file(str(made.data / "train.arrow")).map(lambda row: dict.fromkeys(row, [5] * 100))
    rows.save_to_disk(made.data / "saved")
    (path,) = (made.data / "saved").glob("*.arrow")
    path.replace(made.data / "train.arrow")
    return made


def worsening(inputs, root, strategy="single", **settings) -> Run:
    run = make_run(inputs, root, strategy)
    return replace(run, settings=run.settings | SETTINGS | {"save_steps": 2} | settings)


@pytest.fixture(scope="module")
def run(inputs, tmp_path_factory):
    return worsening(inputs, tmp_path_factory.mktemp("run")).execute()


def best_of(run: Run) -> int:
    losses = {entry.step: entry.values["eval_loss"] for entry in run.result.eval_history if entry.step}
    return min(losses, key=losses.get)


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def adapter_of(folder):
    return load_file(folder / "adapter_model.safetensors")


def test_the_best_evaluations_adapter_is_published_and_the_run_says_so(run):
    best = best_of(run)
    assert 0 < best < 8, "the test needs a run that gets worse"

    assert run.result.published_step == best
    published = adapter_of(run.adapter)
    assert same(published, adapter_of(run.files.outgoing(best)))
    assert not same(published, adapter_of(run.files.outgoing(8)))


def test_a_checkpoint_holds_the_best_adapter_unless_it_is_its_own(run):
    best = best_of(run)
    after, own = run.files.outgoing(8), run.files.outgoing(best)

    assert read_record(after / "layout.json", Layout).best_step == best
    assert load_file(after / BEST).keys()
    assert not (own / BEST).exists()


def test_a_run_that_goes_on_elsewhere_hands_out_the_best_of_before(run, tmp_path):
    """The checkpoint alone is there: not the one of the best evaluation."""
    newest = newest_checkpoint(run.files.checkpoints, run.plan)
    resumed = replace(run, root=tmp_path / "resumed", resume_from=newest).execute()

    assert resumed.result.published_step == best_of(run)
    assert same(adapter_of(resumed.adapter), adapter_of(run.adapter))


def test_a_checkpoint_without_its_best_adapter_is_not_complete(run):
    newest = newest_checkpoint(run.files.checkpoints, run.plan)
    held = (newest / BEST).read_bytes()
    (newest / BEST).unlink()
    try:
        assert newest_checkpoint(run.files.checkpoints, run.plan) != newest
    finally:
        (newest / BEST).write_bytes(held)


def test_training_ends_when_evaluations_get_no_better_and_stays_ended(inputs, run, tmp_path):
    patient = worsening(inputs, tmp_path / "patient", early_stopping_patience=1).execute()

    assert patient.result.stopped_early
    assert patient.result.status == "finished"
    assert patient.result.steps == best_of(run) + 2
    assert same(adapter_of(patient.adapter), adapter_of(run.adapter))

    newest = newest_checkpoint(patient.files.checkpoints, patient.plan)
    again = replace(patient, root=tmp_path / "again", resume_from=newest).execute()
    assert again.result.steps == patient.result.steps
    assert same(adapter_of(again.adapter), adapter_of(run.adapter))


def test_the_last_adapter_is_published_where_that_is_asked_for(inputs, tmp_path):
    last = worsening(inputs, tmp_path / "last", load_best_model_at_end=False).execute()

    assert last.result.published_step == 8
    assert same(adapter_of(last.adapter), adapter_of(last.files.outgoing(8)))


@pytest.mark.parametrize("strategy", ["fsdp", "zero3"])
def test_an_adapter_that_is_spread_over_processes_is_put_back_whole(inputs, tmp_path, strategy):
    spread = worsening(inputs, tmp_path / strategy, strategy).execute()

    best = best_of(spread)
    assert spread.result.published_step == best < 8
    after = load_file(spread.files.outgoing(8) / BEST)
    published = adapter_of(spread.adapter)
    assert len(after) == len(published)
    assert sum(float(tensor.double().sum()) for tensor in after.values()) == pytest.approx(
        sum(float(tensor.double().sum()) for tensor in published.values()), abs=1e-9
    )
