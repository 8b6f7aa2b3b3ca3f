"""How long a rank may be silent, whom a hang is put down to, and what becomes of a rank that vanishes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from job.errors import Hang
from job.events import EventLog
from job.records import Exit, WorkerError
from job.rundir import RunDir, write_json
from job.stacks import Standing, culprit, main_thread
from job.watchdog import LOADING_S, LONGEST_S, SHORTEST_S, Watchdog

HERE = os.getpid()  # a process that lives


class Ranks:
    """Two ranks, a clock, and the watchdog that looks at them once a second."""

    def __init__(self, run_dir: RunDir, timeout: float | str) -> None:
        self.run_dir, self.now, self._beats = run_dir, 0.0, 0
        for path in (run_dir.beat(0), run_dir.stack(0)):
            path.parent.mkdir(parents=True)
        self.watchdog = Watchdog(run_dir, 2, timeout, lambda: self.now)

    def beat(self, *ranks: int, pid: int = HERE) -> None:
        self._beats += 1
        for rank in ranks:
            self.run_dir.beat(rank).write_text(str(pid))
            os.utime(self.run_dir.beat(rank), (self._beats, self._beats))  # of another clock, years behind

    def first_step(self) -> None:
        EventLog(self.run_dir.log).write("first_step", step=1)

    def wait(self, seconds: float, beating: tuple[int, ...] = ()) -> bool:
        for _ in range(round(seconds)):
            self.beat(*beating)
            self.now += 1
            failed = self.watchdog.failed()
        return failed


@pytest.fixture(autouse=True)
def stacks_are_not_asked_of_this_process(monkeypatch):
    """The ranks here are this very process, which SIGUSR1 would end."""
    monkeypatch.setattr(psutil.Process, "send_signal", lambda process, number: None)
    monkeypatch.setattr("job.stacks._ANSWER_S", 0.0)


@pytest.fixture
def ranks(tmp_path) -> Ranks:
    return Ranks(RunDir(tmp_path), "auto")


def silence_that_is_a_hang(ranks: Ranks) -> float:
    """Let rank 1 be silent until it counts as hung; for how long it was."""
    began = ranks.now
    with pytest.raises(Hang, match="Rank 1"):
        ranks.wait(2 * LOADING_S, beating=(0,))
    return ranks.now - began


def test_until_the_first_step_a_rank_may_take_half_an_hour(ranks):
    ranks.beat(0, 1)
    ranks.wait(1)

    assert silence_that_is_a_hang(ranks) == pytest.approx(LOADING_S, abs=2)


def test_a_rank_that_never_shows_life_hangs_too(ranks):
    assert silence_that_is_a_hang(ranks) == pytest.approx(LOADING_S, abs=2)


@pytest.mark.parametrize(("gap_s", "limit_s"), [(1, SHORTEST_S), (10, 200), (90, LONGEST_S)])
def test_after_the_first_step_the_longest_gap_sets_the_limit(ranks, gap_s, limit_s):
    ranks.first_step()
    for _ in range(3):
        ranks.beat(0, 1)
        ranks.wait(gap_s)
    ranks.beat(0, 1)
    ranks.wait(1)

    assert silence_that_is_a_hang(ranks) == pytest.approx(limit_s, abs=2)


def test_the_time_that_loading_took_does_not_set_the_limit_of_a_step(ranks):
    ranks.beat(0, 1)
    ranks.wait(900)
    ranks.beat(0, 1)
    ranks.first_step()
    ranks.wait(1)

    assert silence_that_is_a_hang(ranks) == pytest.approx(SHORTEST_S, abs=2)


def test_a_first_step_of_an_earlier_launch_is_none_of_this_one(tmp_path):
    EventLog(tmp_path / "log.jsonl").write("first_step", step=1)
    ranks = Ranks(RunDir(tmp_path), "auto")
    ranks.beat(0, 1)

    assert not ranks.wait(SHORTEST_S + 10)


@pytest.mark.parametrize(("asked", "loading"), [(5.0, LOADING_S), (3000.0, 3000.0)])
def test_a_limit_that_was_set_holds_from_the_first_step_on_and_loading_may_take_longer(tmp_path, asked, loading):
    for name, stepped, limit_s in (("loading", False, loading), ("steps", True, asked)):
        ranks = Ranks(RunDir(tmp_path / name), asked)
        ranks.beat(0, 1)
        if stepped:
            ranks.first_step()
        ranks.wait(1)

        assert silence_that_is_a_hang(ranks) == pytest.approx(limit_s, abs=2)


def test_a_pause_of_the_machine_is_nobodys_hang(ranks):
    ranks.first_step()
    ranks.beat(0, 1)
    ranks.wait(1)

    ranks.now += 3 * LOADING_S

    assert not ranks.wait(1)
    assert not ranks.wait(SHORTEST_S - 30)


def test_a_rank_that_has_ended_well_is_not_missed(ranks):
    ranks.beat(0, 1)
    write_json(ranks.run_dir.exit(1), Exit(status=0, signal=None, time=1.0))

    for _ in range(3):
        ranks.beat(0)
        assert not ranks.wait(LOADING_S - 10)


@pytest.mark.parametrize(
    "end", [Exit(status=1, signal=None, time=1.0), Exit(status=None, signal=signal.SIGSEGV, time=1.0)]
)
def test_a_bad_end_is_a_failure_though_the_other_lives(ranks, end):
    ranks.beat(0, 1)
    assert not ranks.wait(1)

    write_json(ranks.run_dir.exit(1), end)

    assert ranks.wait(1)


def test_a_rank_that_has_reported_an_error_has_failed_although_its_process_hangs_on(ranks):
    ranks.beat(0, 1)
    error = WorkerError(code=65, cause="", fix="", rank=1, time=1.0, traceback="")

    write_json(ranks.run_dir.error(1), error)

    assert ranks.wait(1)


@pytest.fixture
def ended() -> int:
    """The number of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_process_that_is_gone_has_failed_once_its_keeper_had_time_to_say_how(ranks, ended):
    ranks.beat(0)
    ranks.beat(1, pid=ended)

    assert not ranks.wait(2)
    assert ranks.wait(1)
    assert ranks.watchdog.ends()[1].signal is None


def test_a_record_that_comes_late_tells_more_than_a_process_that_is_gone(ranks, ended):
    ranks.beat(1, pid=ended)
    ranks.wait(3)

    write_json(ranks.run_dir.exit(1), Exit(status=None, signal=signal.SIGBUS, time=1.0))

    assert ranks.watchdog.ends()[1].signal == signal.SIGBUS


def test_a_zombie_is_gone(ranks):
    process = subprocess.Popen([sys.executable, "-c", ""])  # a zombie until it is waited for
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    ranks.beat(0, 1, pid=process.pid)

    assert ranks.wait(3)
    process.wait()


def test_a_beat_that_is_being_written_is_no_missing_process(ranks):
    ranks.run_dir.beat(1).write_text("")

    assert not ranks.wait(3)


DUMP = """\
Thread 0x00007f76dd6846c0 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 327 in wait
  File "/usr/lib/python3.11/threading.py", line 982 in run

Current thread 0x00007f76de1dab80 (most recent call first):
  File "/opt/venv/lib/python3.11/site-packages/torch/autograd/graph.py", line 865 in _engine_run_backward
  File "/opt/venv/lib/python3.11/site-packages/transformers/trainer.py", line 2500 in training_step
  File "<string>", line 1 in <module>
"""
ALL_REDUCE = DUMP.replace("torch/autograd/graph.py", "torch/distributed/distributed_c10d.py").replace(
    "_engine_run_backward", "all_reduce"
)
LOADER = DUMP.replace("torch/autograd/graph.py", "torch/utils/data/dataloader.py").replace(
    "_engine_run_backward", "_next_data"
)


def test_the_main_threads_innermost_frame_is_read_without_the_machines_paths():
    frames = main_thread(DUMP)

    assert str(frames[0]) == "_engine_run_backward (torch/autograd/graph.py, line 865)"
    assert len(frames) == 3


def test_no_dump_is_no_frame():
    assert main_thread("") == ()


def standing(dump: str = "", stopped: bool = False) -> Standing:
    return Standing(stopped, main_thread(dump))


@pytest.mark.parametrize(
    ("standings", "expected"),
    [
        ([standing(DUMP), standing(stopped=True)], 1),
        ([standing(LOADER), standing(ALL_REDUCE)], 0),
        ([standing(ALL_REDUCE), standing(LOADER)], 1),
        ([standing(DUMP), standing()], 1),  # one waits for gradients, the other does not answer
        ([standing(DUMP), standing(DUMP)], 0),  # it cannot be told: the one that has been silent for the longest
        ([standing(), standing()], 0),
    ],
)
def test_a_hang_is_put_down_to_the_rank_that_does_not_come_to_the_collective(standings, expected):
    assert culprit(dict(enumerate(standings)), {0: 125.0, 1: 124.0}) == expected


def test_a_rank_that_never_started_is_the_one_that_others_wait_for():
    assert culprit({0: standing(ALL_REDUCE)}, {0: 1801.0, 1: 1801.0}) == 1


def test_of_many_ranks_the_one_that_stands_where_no_other_does_is_named():
    elsewhere = DUMP.replace("graph.py", "function.py")
    standings = {0: standing(DUMP), 1: standing(DUMP), 2: standing(elsewhere), 3: standing(DUMP)}

    assert culprit(standings, {0: 125.0, 1: 124.0, 2: 124.0, 3: 124.0}) == 2


def test_the_hang_says_who_for_how_long_and_where(tmp_path):
    ranks = Ranks(RunDir(tmp_path), 5.0)
    ranks.beat(0, 1)
    ranks.first_step()
    Path(ranks.run_dir.stack(0)).write_text(ALL_REDUCE)
    Path(ranks.run_dir.stack(1)).write_text(LOADER)

    with pytest.raises(Hang) as raised:
        ranks.wait(10)

    assert raised.value.cause == (
        "Rank 1 has shown no sign of life for 6 s; it stood in _next_data (torch/utils/data/dataloader.py, line 865)."
    )
    assert "JOB_HANG_TIMEOUT_S than 5" in raised.value.fix
