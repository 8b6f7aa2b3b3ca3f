"""Checkpoints that wait to be pushed, and the space that they take."""

import os
from pathlib import Path

import pytest

from job.checkpoints import LAYOUT
from job.disk import _ADAPTERS, _PER_CHECKPOINT
from job.outbox import post, put_back, restore, take, trim, waiting
from job.rundir import RunDir, flush_files, remove_whole, write_bytes
from job.train.checkpoint import seal
from tests.unit.test_durable import layout


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def save(run_dir: RunDir, step: int, eval_loss: float | None = None) -> None:
    """As a worker saves."""
    checkpoint = run_dir.checkpoints / f"checkpoint-{step}"
    write_bytes(checkpoint / "adapter_model.safetensors", b"a")
    write_bytes(checkpoint / "global_step" / "states.pt", b"s")
    seal(checkpoint, layout(step, eval_loss), run_dir.outgoing(step))


def steps(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in waiting(folder)]


def test_behind_a_slow_store_the_newest_few_wait_and_the_best(run_dir):
    for step in range(1, 21):
        save(run_dir, step, eval_loss=0.5 if step == 7 else 1.0 + step)

    assert steps(run_dir.outbox) == [20, 19, 18, 7]


def test_checkpoints_take_no_more_space_than_the_disk_was_asked_for(run_dir):
    """However often is saved while one is on its way; beside them there is the one being written."""
    save(run_dir, 1)
    take(run_dir.outgoing(1), run_dir.sending)
    for step in range(2, 30):
        save(run_dir, step, eval_loss=0.5 if step == 7 else 1.0 + step)
        different = {path.stat().st_ino for path in run_dir.root.rglob(LAYOUT)}
        assert len(different) + 1 <= (_ADAPTERS - 1) / _PER_CHECKPOINT


def test_what_is_on_its_way_is_not_dropped_and_waits_again_when_it_fails(run_dir):
    save(run_dir, 1)
    taken = take(run_dir.outgoing(1), run_dir.sending)
    for step in (2, 3, 4, 5):
        save(run_dir, step)

    assert (taken / "global_step" / "states.pt").exists()
    put_back(run_dir)
    assert (steps(run_dir.outbox), steps(run_dir.sending)) == ([5, 4, 3, 1], [])


def test_a_step_that_was_saved_anew_meanwhile_is_not_put_back_in_its_place(run_dir):
    save(run_dir, 1, eval_loss=1.0)
    take(run_dir.outgoing(1), run_dir.sending)
    save(run_dir, 1, eval_loss=2.0)

    put_back(run_dir)

    assert '"eval_loss": 2.0' in (run_dir.outgoing(1) / LAYOUT).read_text()
    assert list(run_dir.sending.iterdir()) == []


def test_what_another_process_has_dropped_is_taken_for_gone(run_dir):
    save(run_dir, 1)
    remove_whole(run_dir.outgoing(1))

    assert take(run_dir.outgoing(1), run_dir.sending) is None
    remove_whole(run_dir.outgoing(1))
    trim(run_dir.outbox, 1)


def test_after_a_kill_what_was_being_sent_waits_again_and_no_half_is_left(run_dir):
    save(run_dir, 1)
    save(run_dir, 2)
    take(run_dir.outgoing(1), run_dir.sending)
    for place in (run_dir.outbox, run_dir.sending, run_dir.checkpoints):
        write_bytes(place / ".half" / "adapter_model.safetensors", b"")

    restore(run_dir)

    assert (steps(run_dir.outbox), steps(run_dir.sending)) == ([2, 1], [])
    assert not [*run_dir.root.rglob(".*")]


def test_a_removal_that_is_killed_leaves_no_part_under_the_name(run_dir, monkeypatch):
    save(run_dir, 1)

    def killed(folder: Path, *_: object, **__: object) -> None:
        if folder.exists():
            raise KeyboardInterrupt

    monkeypatch.setattr("job.rundir.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_whole(run_dir.outgoing(1))

    assert waiting(run_dir.outbox) == []


def test_a_file_system_without_links_gets_copies(run_dir, monkeypatch):
    def refused(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("job.outbox.os.link", refused)
    save(run_dir, 1)

    assert (run_dir.outgoing(1) / "global_step" / "states.pt").read_bytes() == b"s"


def test_every_file_of_a_folder_is_flushed(run_dir, monkeypatch):
    save(run_dir, 1)
    flushed: list[int] = []
    monkeypatch.setattr("job.rundir.os.fsync", lambda file: flushed.append(os.fstat(file).st_ino))

    flush_files(run_dir.checkpoints)

    there = [path.stat().st_ino for path in run_dir.checkpoints.rglob("*") if path.is_file()]
    assert sorted(flushed) == sorted(there)
    assert len(there) == 3


def test_a_checkpoint_waits_by_links(run_dir):
    save(run_dir, 1)
    post(run_dir.checkpoints / "checkpoint-1", run_dir.outgoing(1))

    assert (run_dir.checkpoints / "checkpoint-1" / LAYOUT).samefile(run_dir.outgoing(1) / LAYOUT)
