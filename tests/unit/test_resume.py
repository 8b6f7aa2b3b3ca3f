"""What a rerun goes on from: the output's newest checkpoint, or a newer one that this machine still has."""

from pathlib import Path

import pytest

from job.checkpoints import LAYOUT, by_step, newest_checkpoint, step_of
from job.console import Console
from job.durable import find_durable
from job.outbox import post, take, waiting
from job.output import Output
from job.processes import StopRequest
from job.records import Decided
from job.redact import redactor
from job.resume import bring_back
from job.run import Run
from job.rundir import write_json
from tests.unit import test_checkpoints, test_durable
from tests.unit.attempts import spec_for
from tests.unit.test_checkpoints import plan
from tests.unit.test_pusher import Said

PLAN = plan("single", num_processes=1)
DECIDED = Decided(quantization="none", packing=False, model="a model", rows="some rows")


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def run(tmp_path: Path, said: Said) -> Run:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").touch()
    spec = spec_for(str(tmp_path / "out"), work_dir=tmp_path / "work")
    made = Run(spec, {}, Console(said, redactor({})), StopRequest())
    made.dir.sending.mkdir(parents=True)
    write_json(made.dir.decided, DECIDED)
    return made


def here(run: Run, step: int, strategy: str = "ddp") -> None:
    """A checkpoint that an earlier attempt on this machine has saved, and that waits to be pushed."""
    post(test_checkpoints.write(run.dir.checkpoints, strategy, step), run.dir.outgoing(step))


def there(run: Run, step: int) -> Path:
    """A checkpoint in the output."""
    return test_durable.write(Path(run.spec.output_uri[0]), step)


def brought_back(run: Run, before: Decided | None = DECIDED) -> list[int]:
    output = Output(run.spec.output_uri[0])
    found = find_durable(output.state, "ours", run.console.warn)
    return [durable.step for durable in bring_back(run, output, found, PLAN, before)]


def local(run: Run) -> list[int]:
    return [step_of(path) for path in by_step(run.dir.checkpoints)]


def outbox(run: Run) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in waiting(run.dir.outbox)]


def test_a_newer_one_of_this_machine_is_gone_on_from_and_waits_to_be_pushed(run, said):
    there(run, 10)
    here(run, 20)
    here(run, 30)

    assert brought_back(run) == [10]
    assert newest_checkpoint(run.dir.checkpoints, PLAN).name == "checkpoint-30"
    assert outbox(run) == [30, 20]
    assert "going on from step 30, which is on this machine only so far" in "".join(said)
    assert run.live.progress.last_durable_step == 10


def test_one_that_is_no_longer_in_the_outbox_is_posted_again(run):
    here(run, 20)
    take(run.dir.outgoing(20), run.dir.root / "lost")

    assert brought_back(run) == []
    assert outbox(run) == [20]
    assert run.live.progress.last_durable_step is None


def test_a_newer_one_of_the_output_is_fetched_and_nothing_older_is_pushed(run, said):
    here(run, 10)
    there(run, 20)

    assert brought_back(run) == [20]
    assert local(run) == [20, 10]
    assert outbox(run) == []
    assert "going on from step 20\n" in "".join(said)
    assert run.live.progress.last_durable_step == 20


def test_of_the_same_step_the_one_whose_bytes_are_proven_is_taken(run, said):
    here(run, 20)
    there(run, 20)

    assert brought_back(run) == [20]
    found = run.dir.checkpoints / "checkpoint-20" / "adapter_model.safetensors"
    assert found.read_text() == "adapter_model.safetensors of step 20"
    assert outbox(run) == []
    assert "machine only" not in "".join(said)


def test_a_damaged_one_of_the_output_is_passed_over_for_that_of_this_machine(run, said):
    there(run, 10)
    here(run, 15)
    test_durable.flipped_bit(there(run, 20))

    assert brought_back(run) == [10]
    assert outbox(run) == [15]
    assert "the checkpoint of step 20 is passed over" in "".join(said)
    assert "going on from step 15, which is on this machine only so far" in "".join(said)


@pytest.mark.parametrize("strategy", ["fsdp", "zero3"])
def test_newer_ones_that_cannot_be_gone_on_from_are_removed_before_they_outlive_what_is_saved_now(run, strategy):
    there(run, 10)
    here(run, 20, strategy)
    (run.dir.checkpoints / "checkpoint-30").mkdir()

    assert brought_back(run) == [10]
    assert (local(run), outbox(run)) == ([10], [])


def test_one_that_lacks_its_last_file_is_none(run):
    here(run, 20)
    (run.dir.checkpoints / "checkpoint-20" / LAYOUT).unlink()

    assert brought_back(run) == []
    assert (local(run), outbox(run)) == ([], [])


def test_what_a_killed_attempt_was_sending_waits_again(run):
    here(run, 20)
    take(run.dir.outgoing(20), run.dir.sending)
    here(run, 30)

    brought_back(run)

    assert outbox(run) == [30, 20]


def test_on_a_fresh_machine_without_anything_durable_a_run_begins_at_the_first_step(run, said):
    assert brought_back(run) == []
    assert "going on" not in "".join(said)


@pytest.mark.parametrize(
    "before",
    [None, DECIDED.model_copy(update={"rows": "others"}), DECIDED.model_copy(update={"model": "another"})],
    ids=["not known", "other rows", "another model"],
)
def test_those_of_other_rows_than_the_run_has_settled_since_are_removed(run, before):
    there(run, 10)
    here(run, 20)

    assert brought_back(run, before) == [10]
    assert (local(run), outbox(run)) == ([10], [])


def test_those_of_nobody_knows_which_rows_are_removed(run):
    here(run, 20)
    run.dir.decided.unlink()

    assert brought_back(run) == []
    assert (local(run), outbox(run)) == ([], [])
