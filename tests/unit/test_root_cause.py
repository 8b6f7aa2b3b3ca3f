"""What came first is the cause, and a death is told by its kind."""

import signal
from pathlib import Path

import pytest

from job.errors import BadData, Bug, GpuFault, Hang, Interrupted, JobError, OutOfMemory, UnsuitableHost, error_for
from job.records import Exit, WorkerError
from job.root_cause import NCCL_TIMEOUT_S, oom_kills, root_cause


def report(rank: int, moment: float, code: int = 65, secondary: bool = False) -> tuple[JobError, WorkerError]:
    record = WorkerError(
        code=code, cause=f"rank {rank} says so", fix="", rank=rank, time=moment, traceback="", secondary=secondary
    )
    return error_for(code)(record.cause), record


def killed(number: int | None, moment: float = 10.0) -> Exit:
    return Exit(status=None, signal=number, time=moment)


def left(status: int, moment: float = 10.0) -> Exit:
    return Exit(status=status, signal=None, time=moment)


def cause(
    reports: list[tuple[JobError, WorkerError]] = [],  # noqa: B006 (it is only read)
    ends: dict[int, Exit] | None = None,
    silent_s: float = 0.0,
    memory_ran_out: bool = False,
) -> JobError | None:
    silences = dict.fromkeys(range(4), silent_s)
    return root_cause(reports, ends or {}, silences, memory_ran_out=memory_ran_out, last_line="the last words")


@pytest.mark.parametrize(
    ("end", "silent_s", "memory_ran_out", "kind", "words"),
    [
        (killed(signal.SIGSEGV), 0, False, GpuFault, "SIGSEGV"),
        (killed(signal.SIGFPE), 0, True, GpuFault, "SIGFPE"),
        (killed(signal.SIGBUS), 0, False, UnsuitableHost, "/dev/shm"),
        (killed(signal.SIGKILL), 0, False, GpuFault, "killed from outside"),
        (killed(signal.SIGKILL), 0, True, OutOfMemory, "the container's memory ran out"),
        (killed(None), 0, False, GpuFault, "vanished"),
        (killed(None), 0, True, OutOfMemory, "vanished"),
        (killed(signal.SIGABRT), 0, False, GpuFault, "SIGABRT"),
        (killed(signal.SIGABRT), 0.89 * NCCL_TIMEOUT_S, False, GpuFault, "SIGABRT"),
        (killed(signal.SIGABRT), 0.91 * NCCL_TIMEOUT_S, False, Hang, "NCCL"),
        (killed(signal.SIGTERM), 0, False, Interrupted, "SIGTERM"),
        (left(3), 0, False, Bug, "status 3 and no report: the last words"),
    ],
)
def test_a_rank_that_dies_without_a_report_is_told_by_how_it_ended(end, silent_s, memory_ran_out, kind, words):
    error = cause([], {0: left(0), 1: end}, silent_s, memory_ran_out)

    assert type(error) is kind
    assert "Rank 1" in error.cause
    assert words in error.cause


def test_memory_of_the_host_is_told_from_that_of_a_gpu():
    of_host = cause(ends={0: killed(signal.SIGKILL)}, memory_ran_out=True)
    of_gpu = cause([report(0, 1.0, code=91)])

    assert isinstance(of_host, OutOfMemory)
    assert isinstance(of_gpu, OutOfMemory)
    assert (of_host.of_host, of_gpu.of_host) == (True, False)


def test_the_earlier_of_a_report_and_a_death_is_the_cause():
    reports = [report(0, 10.0)]

    assert isinstance(cause(reports, {1: killed(signal.SIGSEGV, 9.0)}), GpuFault)
    assert isinstance(cause(reports, {1: killed(signal.SIGSEGV, 11.0)}), BadData)


def test_the_earliest_report_is_the_cause():
    error = cause([report(0, 20.0, code=70), report(1, 10.0)])

    assert isinstance(error, BadData)


def test_a_rank_that_only_lost_a_peer_is_never_the_cause():
    lost = report(0, 1.0, code=81, secondary=True)

    assert isinstance(cause([lost, report(1, 2.0)]), BadData)
    assert isinstance(cause([lost], {0: left(1, 1.1), 1: killed(signal.SIGBUS, 2.0)}), UnsuitableHost)
    assert cause([lost], {0: left(1, 1.1)}) is None


def test_a_rank_that_was_killed_because_another_had_left_is_not_the_cause():
    """Its keeper does so when the launcher ends the others."""
    error = cause(ends={0: killed(signal.SIGKILL, 12.0), 1: left(3, 10.0)})

    assert isinstance(error, Bug)


def test_who_has_reported_is_not_judged_by_the_way_it_ended_then():
    error = cause([report(0, 10.0)], {0: killed(signal.SIGABRT, 9.9)})  # its keeper's clock is read at another moment

    assert isinstance(error, BadData)


def test_a_good_end_is_no_cause():
    assert cause(ends={0: left(0), 1: left(0)}) is None


@pytest.mark.parametrize(
    ("content", "kills"),
    [
        ("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n", 2),  # cgroup v2, memory.events
        ("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", 1),  # cgroup v1, memory.oom_control
        ("oom_kill_disable 0\nunder_oom 0\n", 0),  # the same before Linux 4.13
    ],
)
def test_the_kernel_counts_whom_it_killed_for_memory(tmp_path, content, kills):
    (tmp_path / "counter").write_text(content)

    assert oom_kills([tmp_path / "absent", tmp_path / "counter"]) == kills


def test_where_nothing_counts_nobody_was_killed():
    assert oom_kills([Path("/absent")]) == 0
