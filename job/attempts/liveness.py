"""Whether another attempt still lives: by its process if that ran here, else by its heartbeat."""

import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from job.attempts.folder import HEARTBEAT, OUTCOME, AttemptFolder, Rhythm, parse
from job.errors import OutputTaken
from job.processes import StopRequest
from job.records import Claim, Pulse

LOOKS_PER_BEAT = 5
# What passes between two looks beyond two looks' time was an outage of the store, in which a look hung, or a pause of
# this very process: the other's heart could not be heard then either, and is nobody's silence.
_LONGEST_LOOK = 2
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = Path("/proc/self/ns/pid")


@dataclass(frozen=True)
class Watch:
    """How to wait for another attempt: until when, whom to tell, and by which clock."""

    stop: StopRequest
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def make_claim(fingerprint: str) -> Claim:
    """A claim of this very process."""
    pid = os.getpid()
    return Claim(
        fingerprint=fingerprint, writer=uuid.uuid4().hex, host=_host(), pid=pid, started=_started(pid) or 0.0
    )  # fmt: skip


def is_gone(claim: Claim) -> bool:
    """Whether the claim's process ran in this process namespace and is no more. The number of a namespace is free for
    another one only when nothing lives in the first."""
    return claim.host == _host() and _started(claim.pid) != claim.started


def outlast(folder: AttemptFolder, place: str, rhythm: Rhythm, watch: Watch) -> None:
    """Wait until the attempt of *folder*, which has no outcome, is over: it says so, its process is gone from this
    host, or its heart is silent for one lease of the time in which the store answers.

    An attempt that is ending keeps its heart beating while it saves: the machine that replaces a preempted one is often
    there before that is done.

    Raises:
        OutputTaken: its heart beats.
        Interrupted: a signal arrived.
    """
    claim, last = folder.claim(), folder.read(HEARTBEAT)
    look_s = rhythm.beat_s / LOOKS_PER_BEAT
    looked, silent_s = watch.clock(), 0.0
    if claim is None or not is_gone(claim):
        watch.say(f"attempt {folder.number} at {place} has not ended; watching its heartbeat for {rhythm.lease_s:g} s")
    while claim is None or not is_gone(claim):
        watch.sleep(look_s)
        watch.stop.check()
        now = watch.clock()
        silent_s, looked = silent_s + min(now - looked, _LONGEST_LOOK * look_s), now
        if folder.read(OUTCOME) is not None:
            return
        if (heartbeat := folder.read(HEARTBEAT)) != last:
            _refuse_unless_ending(heartbeat, folder, place)
            last, looked, silent_s = heartbeat, watch.clock(), 0.0
        elif silent_s >= rhythm.lease_s:
            break
    watch.say(f"attempt {folder.number} died; going on in its place")


def _refuse_unless_ending(heartbeat: bytes | None, folder: AttemptFolder, place: str) -> None:
    pulse = parse(Pulse, heartbeat)
    if pulse is None or not pulse.ending:
        raise OutputTaken(
            f"JOB_OUTPUT_URI={place} is held by attempt {folder.number}, whose heart beats.",
            "Let it end, or choose another JOB_OUTPUT_URI.",
        )


def _host() -> str:
    """This boot of this machine, and this process namespace on it; never the same twice where they cannot be read."""
    try:
        return f"{_BOOT_ID.read_text().strip()} {_PID_NAMESPACE.readlink()}"
    except OSError:
        return uuid.uuid4().hex


def _started(pid: int) -> float | None:
    """When process *pid* began, in clock ticks since the machine booted (proc(5), ``stat``), which no change of the
    time moves; None if there is no such process, or only what its parent has yet to reap."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else float(fields[18])
