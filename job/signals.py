"""The signals that ask a job to stop, and the one that a process gets when its parent is gone; and what a process keeps
from others of its user."""

import ctypes
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

# SIGHUP: the terminal or the connection that the job was started from is gone.
STOPPERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4  # linux/prctl.h
_LIBC = ctypes.CDLL(None)  # loaded before any fork, after which nothing may be


def on_stop(handler: Callable[[int, FrameType | None], None]) -> dict[signal.Signals, Any]:
    """Let *handler* have the signals of STOPPERS, in the main thread; returns who had them before. SIGHUP stays ignored
    where it is: whoever starts a job under nohup wants it to go on."""
    heard = [number for number in STOPPERS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends, however that comes about. One call of a
    function that is loaded already, so that it can be a ``preexec_fn``."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def hide_environment() -> None:
    """Have the kernel refuse this process's environment and memory, with the credentials in them, to other processes of
    the same user: workers run as that, and could read them in /proc. Against root it does nothing. Programs that are
    started do not inherit it."""
    _LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
