"""Signals, and work that a signal can end: the supervisor's threads and child processes.

A handler only notes the signal. Whoever waits looks at the note several times a second, so no SDK's ``except`` can
swallow a stop, and nothing is ever cut between two instructions.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import psutil

from job.child import read_error
from job.errors import Bug, Interrupted, JobError, UnsuitableHost
from job.redact import is_secret
from job.signals import die_with_parent, on_stop

T = TypeVar("T")

POLL_S = 0.05
_BESIDE: set[int] = set()  # processes that run beside training
_TRACKERS = ("WANDB_", "MLFLOW_", "DATABRICKS_")  # how the names of their variables begin
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_TERMINATE_S = 2.0  # between SIGTERM and SIGKILL for processes that outlive their job
# SIGKILL takes milliseconds, and seconds where much memory is to be freed. A process that sleeps in a broken driver is
# not ended by it at all: the job then ends without it, and whoever owns the machine sees both.
_KILL_S = 30.0


class StopRequest:
    """Whether a signal that asks to stop has arrived, or the time is up. Use as a context manager around the whole run,
    in the main thread."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.since: float | None = None  # time.monotonic() of the first signal
        self._limit: tuple[float, JobError] | None = None

    def __enter__(self) -> "StopRequest":
        self._previous = on_stop(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        if self.signal is None:  # a second signal asks for nothing new
            self.signal, self.since = signal.Signals(number), time.monotonic()

    def limit(self, at: float, error: JobError) -> None:
        """From *at*, by time.monotonic(), `check` raises *error*."""
        self._limit = (at, error)

    def lift_limit(self) -> None:
        self._limit = None

    def check(self) -> None:
        """Raises:
        Interrupted: a signal has arrived.
        JobError: the error of a limit that has passed.
        """
        if self.signal is not None:
            raise Interrupted(f"{self.signal.name} arrived.", "Run the same job again.")
        if self._limit and time.monotonic() >= self._limit[0]:
            raise self._limit[1]


class Task(threading.Thread, Generic[T]):
    """A call in a daemon thread, so that an interrupted job can exit while a download still hangs."""

    def __init__(self, call: Callable[[], T]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:  # handed to the waiter, which raises it
            self._error = error

    def result(self, stop: StopRequest, patience_s: float = 0.0) -> T:
        """The call's value, or its exception.

        Raises:
            Interrupted: a signal arrived, and *patience_s* seconds later the call had not ended.
        """
        while self.is_alive():
            if stop.since is None or time.monotonic() - stop.since >= patience_s:
                stop.check()
            self.join(POLL_S)
        if self._error is not None:
            raise self._error
        return self._value


def children_env(env: Mapping[str, str]) -> dict[str, str]:
    """*env* without the job's settings, which children read from files, and without credentials, which they need for
    nothing: whatever a template or a model file makes them do, there is no secret to give away."""
    children = {n: value for n, value in env.items() if not n.startswith("JOB_") and not is_secret(n, value)}
    path = [str(Path(__file__).resolve().parent.parent), children.get("PYTHONPATH", "")]
    children["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    return children


def tracker_env(env: Mapping[str, str], children: Mapping[str, str]) -> dict[str, str]:
    """The environment of a tracker: that of *children*, and what trackers read of *env*, their keys and the way out
    through a proxy included."""
    own = {n: value for n, value in env.items() if n.startswith(_TRACKERS) or n.upper().endswith("_PROXY")}
    return dict(children) | own


class Child:
    """A Python module of this job in a process of its own, which reports failure in a file."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[Path | str],
        error: Path,
        log: Path,
        env: Mapping[str, str],
        *,
        beside: bool = False,
    ) -> None:
        """Start *module* with *arguments*. *beside* training it lives on when that is cleared away."""
        self._module, self._error, self._log = module, error, log
        error.unlink(missing_ok=True)
        # It dies with the thread that starts it, which is the main one, or a `Task` that waits for it to end.
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, env=dict(env), start_new_session=True, preexec_fn=die_with_parent,
            )  # fmt: skip
        if beside:
            _BESIDE.add(self._process.pid)

    def wait(self, stop: StopRequest, watch: Callable[[], None] = lambda: None) -> None:
        """Wait for a good end, calling *watch* several times a second.

        Raises:
            JobError: what the child reported, or that it died without a report.
            Interrupted: a signal arrived; the child is gone.
        """
        while self._process.poll() is None:
            try:
                stop.check()
            except JobError:
                end_descendants()
                raise
            watch()
            time.sleep(POLL_S)
        if self._process.returncode:
            raise child_error([self._error], self._process.returncode, self._module, self._log, UnsuitableHost)

    def ended_by(self, end: float) -> bool:
        """Whether it has come to a good end by *end*, of time.monotonic(). Else it is killed.

        Raises:
            JobError: as `wait`.
        """
        while self._process.poll() is None:
            if time.monotonic() > end:
                self._process.kill()
                self._process.wait()
                return False
            time.sleep(POLL_S)
        if self._process.returncode:
            raise child_error([self._error], self._process.returncode, self._module, self._log, UnsuitableHost)
        return True


def child_error(errors: list[Path], status: int, name: str, log: Path, killed: type[JobError]) -> JobError:
    """The failure that the earliest record among *errors* tells of, or else what exit *status* says: *killed* when
    a signal ended the process (SIGKILL is mostly the kernel's answer to a full memory)."""
    reports = [report for path in errors if (report := read_error(path))]
    if reports:
        return min(reports, key=lambda report: report[1].time)[0]
    if status < 0:
        return killed(f"{name} was killed by {signal.Signals(-status).name}.", f"Its output is in {log}.")
    return Bug(f"{name} ended with status {status}: {last_line(log)}", f"Its output is in {log}.")


def last_line(log: Path) -> str:
    """The last line of *log* that says anything: launchers end with a ruler. Empty where none does."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    said = [line.strip() for line in lines if any(map(str.isalnum, line))]
    return said[-1] if said else ""


def adopt_orphans() -> None:
    """Make this process the parent of every orphan below it (it already is when it runs as PID 1)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_descendants() -> None:
    """Leave no process behind: SIGTERM, then SIGKILL to whatever remains, and reap it."""
    alive = psutil.Process().children(recursive=True)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    psutil.wait_procs(alive, timeout=_TERMINATE_S)
    _BESIDE.clear()
    kill_descendants()


def kill_descendants() -> None:
    """The same at once, for processes that would take SIGTERM as a request or, being stopped, not take it at all; but
    for those beside training."""
    end = time.monotonic() + _KILL_S
    # Again and again: a killed launcher's workers come to this process, and what a worker started may outlive it.
    while (alive := _cleared_away()) and time.monotonic() < end:
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=POLL_S)


def _cleared_away() -> list[psutil.Process]:
    """All descendants but those beside training, and what these have started."""
    spared: set[int] = set()
    for process in psutil.Process().children():
        if process.pid in _BESIDE:
            with contextlib.suppress(psutil.NoSuchProcess):
                spared |= {process.pid, *(child.pid for child in process.children(recursive=True))}
    return [process for process in psutil.Process().children(recursive=True) if process.pid not in spared]
