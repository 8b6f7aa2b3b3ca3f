"""The parent of a rank's process: it stays when that dies, and writes down how. Launchers do not pass that on.

It is forked off before anything large is imported, and knows no torch.
"""

import contextlib
import faulthandler
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from job.records import Exit, StopNotice
from job.rundir import RunDir, read_record, write_bytes, write_json
from job.signals import STOPPERS, die_with_parent, on_stop
from job.spec import JobSpec


def keep(work: Callable[[], None], run_dir: RunDir, rank: int, world_size: int, supervisor: int | None = None) -> int:
    """Run *work*, which ends its process itself, in a child, and leave how that ended in ``exits/``. *supervisor* is
    the process id of the launcher's parent, where it has one that nothing here may outlive.

    Returns:
        The child's exit status, or 128 + the signal that killed it.
    """
    die_with_parent()  # the launcher, whose main thread starts its ranks, and which dies with its own parent
    if supervisor is not None and psutil.Process(os.getppid()).ppid() != supervisor:  # one of them died before
        os._exit(1)
    run_dir.exit(rank).unlink(missing_ok=True)
    keeper = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPERS)  # until both know what to do about them
    child = os.fork()
    if child == 0:
        _settle_in(run_dir, rank, keeper)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPERS)
        work()
        os._exit(0)
    _Signals(run_dir, rank, world_size, child).install()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPERS)
    _, wait_status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(wait_status)
    end = Exit(status=code if code >= 0 else None, signal=-code if code < 0 else None, time=time.time())
    with contextlib.suppress(OSError):  # a full disk: the supervisor sees that the launcher ended
        write_json(run_dir.exit(rank), end)
    return code if code >= 0 else 128 - code


class _Signals:
    """What the keeper does about a signal that asks to stop, which can mean three things."""

    def __init__(self, run_dir: RunDir, rank: int, world_size: int, child: int) -> None:
        self._run_dir, self._child, self._asked = run_dir, child, False
        self._others = [other for other in range(world_size) if other != rank]

    def install(self) -> None:
        on_stop(self._receive)

    def _receive(self, number: int, _frame: object) -> None:
        # A launcher clears away the peers of a rank that has died, and waits 30 s for each (torchelastic): this one is
        # lost anyway. Or somebody asks again, who will not wait.
        if self._asked or self._has_failed():
            with contextlib.suppress(ProcessLookupError):  # it has just ended, and the keeper is writing down how
                os.kill(self._child, signal.SIGKILL)
            return
        self._asked = True
        ask_to_stop(self._run_dir, number)

    def _has_failed(self) -> bool:
        return any(self._run_dir.errors.glob("rank*.json")) or any(map(self._ended_badly, self._others))

    def _ended_badly(self, rank: int) -> bool:
        try:
            return read_record(self._run_dir.exit(rank), Exit).status != 0
        except FileNotFoundError:
            return False


def ask_to_stop(run_dir: RunDir, number: int) -> None:
    """Make the stop file for signal *number*, unless training has been asked to stop already."""
    if not run_dir.stop.exists():
        grace_s = read_record(run_dir.spec, JobSpec).grace_s
        reason = f"{signal.Signals(number).name} came to a training process."
        write_json(run_dir.stop, StopNotice(reason=reason, deadline=time.monotonic() + grace_s))


def _settle_in(run_dir: RunDir, rank: int, keeper: int) -> None:
    """What the new process does first: die with its keeper, pass signals on to all ranks, show that it lives, and be
    ready to say where it stands."""
    die_with_parent()
    if os.getppid() != keeper:  # it died before
        os._exit(1)
    on_stop(lambda number, _frame: ask_to_stop(run_dir, number))
    write_bytes(run_dir.beat(rank), str(os.getpid()).encode())
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, file=_open(run_dir.stack(rank)), all_threads=True)


def _open(path: Path) -> int:
    """A file descriptor that stays open as long as the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
