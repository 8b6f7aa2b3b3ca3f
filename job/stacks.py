"""Where the ranks of a hung run stand: each writes the stacks of its threads on SIGUSR1 (Python's faulthandler)."""

import contextlib
import re
import signal
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

_ANSWER_S = 3.0  # the handler runs at once, whatever Python waits for; only what sleeps in a driver does not answer
_POLL_S = 0.1
_STOPPED = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
_WAITING_IN = ("torch/distributed/", "job/train/agreement.py")
_FRAME = re.compile(r'  File "(?:.*/(?:site|dist)-packages/)?(.+)", line (\d+) in (.+)')


@dataclass(frozen=True)
class Frame:
    """One line of a stack."""

    file: str  # from the package on
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.function} ({self.file}, line {self.line})"


@dataclass(frozen=True)
class Standing:
    """What a rank was doing."""

    stopped: bool  # by SIGSTOP or a debugger, so it cannot answer
    frames: tuple[Frame, ...]  # of its main thread, the innermost first; empty: no answer

    def __str__(self) -> str:
        if self.stopped:
            return "its process is stopped (SIGSTOP or a debugger)"
        return f"it stood in {self.frames[0]}" if self.frames else "it did not answer where it stood"

    @property
    def is_in_collective(self) -> bool:
        """Whether it waits for its peers, as far as Python's frames tell: gradients are reduced inside of autograd's
        engine, where there are none."""
        innermost = self.frames[0].function if self.frames else ""
        return innermost == "_engine_run_backward" or any(part in f.file for f in self.frames for part in _WAITING_IN)


def ask(processes: Mapping[int, psutil.Process], paths: Mapping[int, Path]) -> dict[int, Standing]:
    """Where each of *processes* (by rank) stands; their answers stay in *paths*."""
    stopped = {rank: _is_stopped(process) for rank, process in processes.items()}
    for process in processes.values():
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGUSR1)
    _await([paths[rank] for rank in processes if not stopped[rank]])
    return {rank: Standing(stopped[rank], main_thread(_text(paths[rank]))) for rank in processes}


def _is_stopped(process: psutil.Process) -> bool:
    try:
        return process.status() in _STOPPED
    except psutil.Error:  # it is gone
        return False


def _await(paths: list[Path]) -> None:
    """Return when all of *paths* are written and no longer grow, or the time for it is over."""
    end, before = time.monotonic() + _ANSWER_S, [""] * len(paths)
    while time.monotonic() < end:
        now = [_text(path) for path in paths]
        if all(now) and now == before:
            return
        before = now
        time.sleep(_POLL_S)


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def main_thread(dump: str) -> tuple[Frame, ...]:
    """The frames of the main thread in what faulthandler wrote, the innermost first.

    The kernel hands a signal for a process to its main thread, which faulthandler calls the current one.
    """
    threads = dump.split("\n\n")
    current = next((thread for thread in threads if thread.startswith("Current thread")), "")
    frames = map(_FRAME.fullmatch, current.splitlines())
    return tuple(Frame(found[1], int(found[2]), found[3]) for found in frames if found)


def culprit(standings: Mapping[int, Standing], silent_s: Mapping[int, float]) -> int:
    """The rank whose standing still makes the others wait, as far as that can be told: one that is stopped; else one
    outside of the collective that others are in; of several, the one that stands where the fewest do, and then the one
    that has been silent for the longest."""
    stopped = [rank for rank, standing in standings.items() if standing.stopped]
    waiting = [rank for rank, standing in standings.items() if standing.is_in_collective]
    absent = [rank for rank in silent_s if rank not in waiting] if waiting else []
    places = {rank: standings[rank].frames[:1] if rank in standings else () for rank in silent_s}
    crowd = Counter(places.values())
    return max(stopped or absent or silent_s, key=lambda rank: (-crowd[places[rank]], silent_s[rank]))
