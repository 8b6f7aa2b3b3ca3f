"""Why training died, out of what its ranks left behind: their own reports, and how their processes ended.

A launcher's exit status says nothing of this, and one rank's death makes the others fail too: in their collectives, by
NCCL's watchdog, or by the launcher's signals. What came first is the cause.
"""

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from job.errors import Bug, GpuFault, Hang, Interrupted, JobError, OutOfMemory, UnsuitableHost
from job.records import Exit, WorkerError
from job.signals import STOPPERS

# How long a collective may take before NCCL's watchdog aborts the process with SIGABRT: `ddp_timeout`'s default, which
# no setting of the job changes.
NCCL_TIMEOUT_S = 1800.0
# A rank gives its last sign of life a little before the collective that NCCL times, and is looked at once a second.
_MOST_OF_IT = 0.9


def root_cause(
    reports: Sequence[tuple[JobError, WorkerError]],
    ends: Mapping[int, Exit],
    silent_s: Mapping[int, float],
    *,
    memory_ran_out: bool,
    last_line: str,
) -> JobError | None:
    """What happened first, or None when nothing is known but that peers were lost.

    Args:
        reports: the errors that ranks wrote, as errors to raise and as records.
        ends: how processes of ranks ended; good ends do not matter.
        silent_s: seconds since the last sign of life of each rank.
        memory_ran_out: whether the kernel killed a process of this container for its memory while training ran.
        last_line: of the workers' output, for a rank that left with a status and no report.
    """
    happened = [(record.time, error) for error, record in reports if not record.secondary]
    told = {record.rank for _, record in reports}
    for rank, end in ends.items():
        if end.status != 0 and rank not in told:  # who has reported says more than the way its process ended
            error = _as_error(f"Rank {rank}", end, silent_s.get(rank, 0.0), memory_ran_out, last_line)
            happened.append((end.time, error))
    return min(happened, key=lambda one: one[0])[1] if happened else None


def _as_error(name: str, end: Exit, silent_s: float, memory_ran_out: bool, last_line: str) -> JobError:
    """The bad end of a process that left no report."""
    if end.status is not None:
        return Bug(f"{name} ended with status {end.status} and no report: {last_line}", "Its output is in worker.log.")
    how = f"was ended by {signal.Signals(end.signal).name}" if end.signal else "vanished without a trace"
    match end.signal:
        case signal.SIGBUS:
            return UnsuitableHost(
                f"{name} {how}, as when /dev/shm is full.",
                "Start the container with --shm-size=1g or --ipc=host; on Kubernetes mount an emptyDir with "
                "`medium: Memory` at /dev/shm.",
            )
        case signal.SIGKILL | None if memory_ran_out:
            return OutOfMemory(
                f"{name} {how}: the container's memory ran out (the kernel counts it in oom_kill).",
                "Give the container more memory, set JOB_CPU_OFFLOAD=false, or lower JOB_NUM_PROCESSES.",
                of_host=True,
            )
        case signal.SIGKILL | None:
            return GpuFault(
                f"{name} {how}: killed from outside, perhaps because the machine's memory ran out.",
                "Run the same job again, on a machine with more memory if it happens again.",
            )
        case signal.SIGABRT if silent_s >= _MOST_OF_IT * NCCL_TIMEOUT_S:
            return Hang(
                f"{name} {how} after {silent_s:.0f} s without a sign of life, as NCCL does when a collective hangs.",
                "Run the same job again, on another machine if it happens again.",
            )
        case _ if end.signal in STOPPERS:
            return Interrupted(f"{name} {how} from outside.", "Run the same job again.")
    return GpuFault(f"{name} {how}: it crashed.", "Run the same job again, on another machine if it happens again.")


# The container's own memory group: cgroup v2, then v1. Both count the processes that the kernel killed for its memory.
_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))


def oom_kills(counters: Sequence[Path] = _COUNTERS) -> int:
    """Processes of this container that the kernel has killed because its memory ran out; 0 where nothing counts."""
    for path in counters:
        if path.exists():
            fields = dict(line.split() for line in path.read_text().splitlines())
            return int(fields.get("oom_kill", 0))
    return 0
