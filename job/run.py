"""What all parts of a run have in common on this machine: its spec, its folder, whom it tells, and what can stop it."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from job.console import Console
from job.events import EventLog
from job.own_rundir import find_run_dir
from job.pace import Live
from job.preparation import open_workshop
from job.processes import StopRequest, Task
from job.spec import JobSpec

T = TypeVar("T")


class Background(Protocol):
    """As `job.pusher.Pusher`."""

    def flush(self, until: Callable[[], float]) -> None: ...
    def stop(self) -> None: ...
    def join(self, timeout: float | None = None) -> None: ...


class Run:
    """One attempt at a run, before it is known which one."""

    def __init__(self, spec: JobSpec, env: Mapping[str, str], console: Console, stop: StopRequest) -> None:
        self.began = time.monotonic()
        self.spec, self.env, self.console, self.stop = spec, env, console, stop
        self.dir = find_run_dir(spec)
        self.log = EventLog(self.dir.log)
        self.live = Live()
        self.shop = open_workshop(spec, env, self.dir.root / "prepare.log", stop, self.hear)
        self.phases_s: dict[str, float] = {}
        self.background: Background | None = None  # what still writes to the output after training

    def hear(self, event: dict[str, Any]) -> None:
        """Tell what a child process has logged."""
        self.live.event(event)
        self.console.event(event)

    def wait(self, call: Callable[[], T], patience_s: float = 0.0) -> T:
        """The value of *call*, unless a signal arrives and *patience_s* seconds pass, or the time is up."""
        return Task(call).result(self.stop, patience_s)

    def grace_ends(self) -> float:
        """When, by time.monotonic(), the grace of a signal is over; infinity without one."""
        return self.stop.since + self.spec.grace_s if self.stop.since is not None else float("inf")

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """A phase, announced and measured."""
        start = time.monotonic()
        self.live.enter(phase)
        self.console.say(phase)
        yield
        self.phases_s[phase] = time.monotonic() - start
