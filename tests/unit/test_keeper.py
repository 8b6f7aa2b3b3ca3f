"""The keeper tells how a rank's process ended, and knows what a signal means."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from job.records import Exit, StopNotice
from job.rundir import RunDir, read_record, write_json
from job.spec import JobSpec
from tests.tiny import ROOT

GRACE_S = 25.0


class Kept:
    """Keepers, started as the launcher starts them."""

    def __init__(self, root: Path) -> None:
        self.files = RunDir(root)
        self._keepers: list[subprocess.Popen[bytes]] = []
        write_json(self.files.spec, JobSpec(model="org/m", dataset_uri="org/d", grace_s=GRACE_S))

    def start(
        self, what: str, *supervisor: str, rank: int = 0, world_size: int = 1, under: tuple[str, ...] = ()
    ) -> subprocess.Popen[bytes]:
        """A keeper, or what runs it *under* itself."""
        told = [str(self.files.root), str(rank), str(world_size), what, *supervisor]
        command = [*under, sys.executable, "-m", "tests.unit.kept", *told]
        self._keepers.append(subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL))
        return self._keepers[-1]

    def child(self, rank: int = 0) -> int:
        """The process id of a child that is ready."""
        assert happens(self.files.stack(rank).exists)
        time.sleep(0.05)  # the file is opened for the signal that is set up next
        return int(self.files.beat(rank).read_text())

    def end(self, rank: int = 0) -> Exit:
        return read_record(self.files.exit(rank), Exit)

    def close(self) -> None:
        for keeper in self._keepers:
            keeper.kill()
            keeper.wait()


def happens(what, seconds: float = 10.0) -> bool:
    until = time.monotonic() + seconds
    while not what() and time.monotonic() < until:
        time.sleep(0.01)
    return bool(what())


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    kept = Kept(tmp_path / "run")
    yield kept
    kept.close()


def test_the_status_of_a_process_that_ended_itself_is_written_down(kept):
    assert kept.start("3").wait() == 3
    assert (kept.end().status, kept.end().signal) == (3, None)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT", "SIGBUS"])
def test_the_signal_that_killed_a_process_is_written_down(kept, name):
    number = signal.Signals[name]

    assert kept.start(name).wait() == 128 + number
    assert (kept.end().status, kept.end().signal) == (None, number)


def test_how_the_process_before_ended_is_forgotten_when_the_next_begins(kept):
    kept.start("3").wait()
    kept.start("wait")

    assert happens(lambda: not kept.files.exit(0).exists())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("whom", ["keeper", "child"])
@pytest.mark.usefixtures("hangup")
def test_a_signal_to_one_rank_asks_all_of_them_to_stop(kept, whom, number):
    keeper = kept.start("obey", rank=1, world_size=2)
    child = kept.child(1)

    os.kill(child if whom == "child" else keeper.pid, number)

    assert keeper.wait(10) == 0
    notice = read_record(kept.files.stop, StopNotice)
    assert notice.reason == f"{number.name} came to a training process."
    assert 0 < notice.deadline - time.monotonic() <= GRACE_S


@pytest.mark.parametrize("whom", ["keeper", "child"])
def test_a_hangup_that_was_ignored_at_the_start_stays_ignored(kept, whom):
    keeper = kept.start("obey", under=("nohup",))
    child = kept.child()

    for number in (signal.SIGHUP, signal.SIGTERM):
        os.kill(child if whom == "child" else keeper.pid, number)

    assert keeper.wait(10) == 0
    assert read_record(kept.files.stop, StopNotice).reason == "SIGTERM came to a training process."


def test_who_has_asked_first_is_not_overwritten(kept):
    write_json(kept.files.stop, StopNotice(reason="first", deadline=1.0))
    keeper = kept.start("obey")
    kept.child()
    keeper.terminate()
    keeper.wait(10)

    assert read_record(kept.files.stop, StopNotice).reason == "first"


def test_a_second_signal_ends_the_process_at_once(kept):
    keeper = kept.start("wait")
    kept.child()
    keeper.terminate()
    assert happens(kept.files.stop.exists)
    keeper.terminate()

    assert keeper.wait(5) == 128 + signal.SIGKILL
    assert kept.end().signal == signal.SIGKILL


def test_a_launcher_that_clears_away_the_peers_of_a_dead_rank_does_not_wait(kept):
    dead, peer = kept.start("SIGSEGV", rank=0, world_size=2), kept.start("wait", rank=1, world_size=2)
    kept.child(1)
    dead.wait(10)

    peer.terminate()

    assert peer.wait(5) == 128 + signal.SIGKILL
    assert not kept.files.stop.exists()


def test_a_rank_that_has_reported_its_failure_takes_the_others_along(kept):
    keeper = kept.start("wait", rank=1, world_size=2)
    kept.child(1)
    kept.files.errors.mkdir()
    kept.files.error(0).touch()

    keeper.terminate()

    assert keeper.wait(5) == 128 + signal.SIGKILL


def test_a_peer_that_ended_well_is_no_failure(kept):
    kept.start("0", rank=0, world_size=2).wait()
    keeper = kept.start("obey", rank=1, world_size=2)
    kept.child(1)

    keeper.terminate()

    assert keeper.wait(5) == 0


def test_a_killed_keeper_leaves_no_worker(kept):
    keeper = kept.start("wait")
    child = psutil.Process(kept.child())

    keeper.kill()
    keeper.wait()

    assert happens(lambda: not lives(child), 5)


LAUNCHER = ("-c", "import subprocess, sys; subprocess.run(sys.argv[1:])")


def test_a_killed_launcher_leaves_neither_keeper_nor_worker(kept):
    launcher = kept.start("wait", under=(sys.executable, *LAUNCHER))
    kept.child()
    below = psutil.Process(launcher.pid).children(recursive=True)
    assert len(below) == 2

    launcher.kill()
    launcher.wait()

    assert happens(lambda: not any(map(lives, below)), 5)


def lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_a_keeper_that_comes_after_its_supervisor_has_died_begins_nothing(kept):
    assert kept.start("0", str(os.getppid())).wait(10) == 0  # of which this process is the launcher
    kept.files.exit(0).unlink()

    assert kept.start("0", str(os.getpid())).wait(10) == 1
    assert not kept.files.exit(0).exists()


def test_a_process_says_where_it_stands_when_it_is_asked(kept):
    kept.start("wait")

    os.kill(kept.child(), signal.SIGUSR1)

    assert happens(lambda: "in work" in kept.files.stack(0).read_text())


def test_the_keeper_knows_no_torch():
    look = "import job.train.__main__, sys; assert not {'torch', 'transformers'} & set(sys.modules)"

    assert subprocess.run([sys.executable, "-c", look], cwd=ROOT).returncode == 0
