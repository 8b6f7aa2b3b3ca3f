"""A rank that dies or hangs ends the job with the code of its fault, soon, and with the others."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.job import Ended, logged, run_and_act, start
from tests.thorough import some

pytestmark = pytest.mark.slow

HANG_S = 8  # longer than a busy machine takes for a step


def last_rank_gets(number: signal.Signals, env: dict[str, str], work_dir: Path, processes: int) -> Ended:
    """Train for ever, and send *number* to the last rank after the first step."""

    def act(_: object) -> None:
        (beat,) = work_dir.glob(f"runs/*/beats/rank{processes - 1}")
        os.kill(int(beat.read_text()), number)

    return run_long(env | {"JOB_NUM_PROCESSES": str(processes)}, work_dir, act)


def run_long(env: dict[str, str], work_dir: Path, act: Callable[..., object]) -> Ended:
    long = env | {"JOB_MAX_STEPS": "100000", "JOB_HANG_TIMEOUT_S": str(HANG_S)}
    ended = run_and_act(long, lambda: logged(work_dir, "first_step"), act)
    assert left_over(work_dir) == ""
    return ended


def left_over(work_dir: Path) -> str:
    return subprocess.run(["pgrep", "-f", str(work_dir)], capture_output=True, text=True).stdout


DEATHS = [(signal.SIGSEGV, 81, 2), (signal.SIGBUS, 80, 1)]


@pytest.mark.parametrize(("number", "code", "processes"), some(DEATHS, always=DEATHS[:1]))
def test_a_rank_that_dies_ends_the_job_at_once_with_the_code_of_its_fault(env, tmp_path, number, code, processes):
    ended = last_rank_gets(number, env, tmp_path / "work", processes)

    assert ended.code == code, ended.shown
    assert f"Rank {processes - 1} was ended by {number.name}" in ended.outcome["cause"]
    assert ended.seconds < 15  # a launcher would wait 30 s for the other


def test_a_stopped_rank_is_a_hang_that_names_it(env, tmp_path):
    ended = last_rank_gets(signal.SIGSTOP, env, tmp_path / "work", processes=2)

    assert ended.code == 82, ended.shown
    assert "Rank 1 has shown no sign of life" in ended.outcome["cause"]
    assert "its process is stopped" in ended.outcome["cause"]
    assert HANG_S <= ended.seconds < HANG_S + 20
    (stack,) = (tmp_path / "work").glob("runs/*/stacks/rank0.txt")
    assert "job/train" in stack.read_text()  # the one that could answer has said where it waits


def test_ranks_that_cannot_stop_are_killed_when_the_grace_is_over(env, tmp_path):
    def stop_while_a_rank_is_stopped(process: "subprocess.Popen[str]") -> None:
        (beat,) = (tmp_path / "work").glob("runs/*/beats/rank1")
        os.kill(int(beat.read_text()), signal.SIGSTOP)
        process.terminate()

    two = env | {"JOB_NUM_PROCESSES": "2", "JOB_GRACE_S": "3"}
    ended = run_long(two, tmp_path / "work", stop_while_a_rank_is_stopped)

    assert ended.code == 75, ended.shown
    assert ended.outcome["cause"] == "SIGTERM arrived. The training processes did not stop in time."
    assert 3 <= ended.seconds < 10


def test_a_terminal_that_hangs_up_stops_the_run_as_sigterm_does(env, tmp_path):
    ended = run_long(env, tmp_path / "work", lambda process: process.send_signal(signal.SIGHUP))

    assert (ended.code, ended.outcome["cause"].split(".")[0]) == (75, "SIGHUP arrived")
    assert ended.outcome["last_durable_step"]


@pytest.mark.parametrize("processes", some([1, 2], always=[2]))
def test_a_supervisor_that_is_killed_leaves_no_process(env, tmp_path, processes):
    job = start(env | {"JOB_MAX_STEPS": "100000", "JOB_NUM_PROCESSES": str(processes)})
    wait_for(lambda: logged(tmp_path / "work", "first_step"), 120)

    job.kill()
    job.communicate()

    until = time.monotonic() + 5
    while left := left_over(tmp_path / "work"):
        assert time.monotonic() < until, left


def wait_for(holds: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it never came to be"
        time.sleep(0.05)
