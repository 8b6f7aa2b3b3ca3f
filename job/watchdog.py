"""Looks after the ranks: one that shows no sign of life for too long hangs, one whose process is gone has failed."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from job import stacks
from job.errors import Hang
from job.events import EventTail
from job.records import Exit
from job.rundir import RunDir, read_record

_LOOK_S = 1.0
_LOOKS_TO_VANISH = 3  # a keeper flushes its record to a disk that may be busy
# What passes between two looks beyond this was a pause of this process itself (a frozen container, a suspended virtual
# machine), in which the ranks could not show life either.
_LONGEST_LOOK_S = 10.0
# Until the first optimizer step: upstream's `ddp_timeout`. 140 GB from a network disk of 100 MB/s take 1,400 s.
LOADING_S = 1800.0
# Afterwards there is a sign at every micro-batch. A silence of less than two minutes may be a first evaluation that
# compiles its kernels, or a checkpoint on its way to a slow disk; ten minutes of silence are paid for in vain.
SHORTEST_S, LONGEST_S = 120.0, 600.0
_GAPS = 20  # the longest rows take less than this many times the shortest ones' time


@dataclass
class _Rank:
    """What has been seen of a rank."""

    beat: int | None = None  # when its file was modified, by that file system's clock: only a change says anything
    silent_s: float = 0.0
    process: psutil.Process | None = None
    missed: int = 0  # looks in a row at which its process was gone
    vanished: Exit | None = None


class Watchdog:
    """The ranks of a launch to come. *timeout* is JOB_HANG_TIMEOUT_S; *clock* counts seconds from anywhere."""

    def __init__(
        self,
        run_dir: RunDir,
        num_processes: int,
        timeout: float | Literal["auto"],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run_dir, self._timeout, self._clock = run_dir, timeout, clock
        self._ranks = {number: _Rank() for number in range(num_processes)}
        self._events = EventTail(run_dir.log)  # what an earlier launch has logged is passed over
        self._in_steps, self._longest_gap_s = False, 0.0
        self._looked, self._failed = clock(), False

    def failed(self) -> bool:
        """Whether a rank has reported an error, ended badly or vanished, so that its peers wait for it in vain. Looks
        once a second, however often it is asked.

        Raises:
            Hang: a rank has been silent for longer than `limit_s`. All ranks' stacks are in RunDir then.
        """
        now = self._clock()
        if now - self._looked >= _LOOK_S:
            passed_s, self._looked = min(now - self._looked, _LONGEST_LOOK_S), now
            self._look(passed_s)
        return self._failed

    @property
    def limit_s(self) -> float:
        """The longest silence that is not a hang."""
        asked = 0.0 if self._timeout == "auto" else self._timeout
        if not self._in_steps:
            return max(LOADING_S, asked)
        return asked or min(max(_GAPS * self._longest_gap_s, SHORTEST_S), LONGEST_S)

    def silent_s(self) -> dict[int, float]:
        """Seconds since the last sign of life of each rank."""
        return {number: rank.silent_s for number, rank in self._ranks.items()}

    def ends(self) -> dict[int, Exit]:
        """How the processes of ranks ended, of those that have."""
        found = {number: self._end(number) for number in self._ranks}
        return {number: end for number, end in found.items() if end}

    def _end(self, number: int) -> Exit | None:
        with contextlib.suppress(FileNotFoundError):
            return read_record(self._run_dir.exit(number), Exit)
        return self._ranks[number].vanished

    def _look(self, passed_s: float) -> None:
        for number, rank in self._ranks.items():
            rank.silent_s += passed_s
            self._listen(number, rank)
        ends = self.ends()
        reported = any(self._run_dir.error(number).exists() for number in self._ranks)
        self._failed = reported or any(end.status != 0 for end in ends.values())
        running = {number: rank for number, rank in self._ranks.items() if number not in ends}
        if not self._failed and any(rank.silent_s > self.limit_s for rank in running.values()):
            raise self._hang(running)
        # Last, so that the gap before the first step, in which kernels are compiled, does not count as one of a step.
        self._in_steps = self._in_steps or any(event["event"] == "first_step" for event in self._events.new())

    def _listen(self, number: int, rank: _Rank) -> None:
        path = self._run_dir.beat(number)
        try:
            beat = path.stat().st_mtime_ns
        except FileNotFoundError:  # it is still to come
            return
        if beat != rank.beat:
            if self._in_steps:
                self._longest_gap_s = max(self._longest_gap_s, rank.silent_s)
            rank.beat, rank.silent_s = beat, 0.0
        self._follow(rank, path)

    def _follow(self, rank: _Rank, beat: Path) -> None:
        """Note a process that has been gone for long enough: its keeper would have recorded how it ended."""
        try:
            rank.process = rank.process or psutil.Process(int(beat.read_text()))
            lives = rank.process.is_running() and rank.process.status() != psutil.STATUS_ZOMBIE
        except ValueError:  # it is being written
            return
        except psutil.NoSuchProcess:
            lives = False
        rank.missed = 0 if lives else rank.missed + 1
        if rank.missed == _LOOKS_TO_VANISH:
            rank.vanished = Exit(status=None, signal=None, time=time.time())

    def _hang(self, running: dict[int, _Rank]) -> Hang:
        processes = {number: rank.process for number, rank in running.items() if rank.process}
        standings = stacks.ask(processes, {number: self._run_dir.stack(number) for number in running})
        silent_s = {number: rank.silent_s for number, rank in running.items()}
        number = stacks.culprit(standings, silent_s)
        standing = standings.get(number)
        return Hang(
            f"Rank {number} has shown no sign of life for {silent_s[number]:.0f} s"
            f"{f'; {standing}' if standing else ', since its launch'}.",
            "Run the same job again, on another machine if it hangs again; set a higher JOB_HANG_TIMEOUT_S than "
            f"{self.limit_s:.0f} if it only takes so long.",
        )
