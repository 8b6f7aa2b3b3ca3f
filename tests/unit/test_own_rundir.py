"""A RunDir belongs to one process, which finds there what this very job has left to go on from."""

import threading
import time
from pathlib import Path

import pytest

from job.errors import BadSpec, Interrupted, OutputTaken
from job.own_rundir import clear, hold, is_trained, is_unjudged, open_lock
from job.processes import StopRequest
from job.rundir import RunDir, write_bytes, write_json
from job.spec import JobSpec
from tests.unit.attempts import spec_for

OURS, OTHERS = spec_for("/out"), spec_for("/out", seed=7)
TO_GO_ON_FROM = {
    "spec.json",
    "decided.json",
    "checkpoints/checkpoint-6/layout.json",
    "outbox/step-6/a",
    "sending/step-4/a",
}


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "runs" / "id")


def left(run_dir: RunDir, spec: JobSpec, *, trained: bool = False) -> None:
    """What an attempt at *spec* may leave."""
    write_json(run_dir.spec, spec)
    for name in (*TO_GO_ON_FROM - {"spec.json"}, "stop", "log.jsonl", "adapter/adapter_model.safetensors"):
        write_bytes(run_dir.root / name, b"x")
    if trained:
        write_bytes(run_dir.metrics, b"{}")


def files(run_dir: RunDir) -> set[str]:
    found = {path.relative_to(run_dir.root).as_posix() for path in run_dir.root.rglob("*") if path.is_file()}
    return found - {"spare"}


def test_the_same_job_finds_its_checkpoints_and_nothing_else(run_dir):
    left(run_dir, OURS)

    clear(run_dir, OURS)

    assert files(run_dir) == TO_GO_ON_FROM
    assert run_dir.errors.is_dir()
    assert run_dir.spare.stat().st_size > 0


@pytest.mark.parametrize("trained", [False, True])
def test_another_job_finds_nothing(run_dir, trained):
    left(run_dir, OURS, trained=trained)

    clear(run_dir, OTHERS)

    assert files(run_dir) == set()


def test_a_trained_result_stays_whole_for_the_same_job(run_dir):
    left(run_dir, OURS, trained=True)
    before = files(run_dir)

    clear(run_dir, OURS)

    assert files(run_dir) == before
    assert is_trained(run_dir, OURS)


def test_what_is_yet_to_be_judged_stays_whole_for_the_same_job(run_dir):
    left(run_dir, OURS)
    write_bytes(run_dir.made, b"{}")
    before = files(run_dir)

    clear(run_dir, OURS)
    assert files(run_dir) == before
    assert is_unjudged(run_dir, OURS)

    clear(run_dir, OTHERS)
    assert files(run_dir) == set()


def test_what_a_killed_clearing_has_left_is_nobodys(run_dir, monkeypatch):
    """Not even the job's whose files they were: of a checkpoint there may be a part."""
    left(run_dir, OURS)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("job.own_rundir.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        clear(run_dir, OTHERS)
    monkeypatch.undo()

    clear(run_dir, OURS)
    assert files(run_dir) == set()


def test_who_still_leaves_its_last_files_is_waited_for(run_dir):
    before, after = open_lock(run_dir, OURS), open_lock(run_dir, OURS)
    hold(before, OURS, StopRequest())
    threading.Timer(0.3, before.close).start()

    began = time.monotonic()
    hold(after, OURS, StopRequest())

    assert 0.2 < time.monotonic() - began < 5
    after.close()


def test_who_goes_on_working_there_is_not_waited_for_forever(run_dir, monkeypatch):
    monkeypatch.setattr("job.own_rundir._PATIENCE_S", 0.2)
    with open_lock(run_dir, OURS) as before, open_lock(run_dir, OURS) as after:
        hold(before, OURS, StopRequest())
        with pytest.raises(OutputTaken, match="JOB_OUTPUT_URI=/out"):
            hold(after, OURS, StopRequest())


def test_a_signal_ends_the_waiting(run_dir):
    with open_lock(run_dir, OURS) as before, open_lock(run_dir, OURS) as after, StopRequest() as stop:
        hold(before, OURS, stop)
        stop._note(15, None)
        with pytest.raises(Interrupted):
            hold(after, OURS, stop)


def test_a_work_dir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    spec = spec_for("/out", work_dir=tmp_path / "file")

    with pytest.raises(BadSpec, match=f"JOB_WORK_DIR={tmp_path}/file cannot be written"):
        open_lock(RunDir(spec.work_dir / "runs" / "id"), spec)
