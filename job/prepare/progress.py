"""How far preparation has come, for the person who waits for it."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from job.events import EventLog
from job.records import DataFile

EVERY_S = 5.0


class Meter:
    """Which share of some files has been read, by their bytes on disk: how many rows they hold nobody knows before."""

    def __init__(self, files: Iterable[DataFile]) -> None:
        self._sizes = {file.path: file.path.stat().st_size for file in files}
        self._shares: dict[Path, Callable[[], float]] = {}
        self.stopped_at = 1.0

    def follow(self, file: DataFile, position: Callable[[], int], end: int) -> None:
        """From now on *position()* of *end* says how far *file* has been read."""
        self._shares[file.path] = lambda: position() / max(1, end)

    def finish(self, file: DataFile) -> None:
        self._shares[file.path] = lambda: 1.0

    def stop(self) -> None:
        """Note how far reading has come, as it goes no further."""
        self.stopped_at = self.share()

    def share(self) -> float:
        """0..1."""
        read = sum(self._sizes[path] * share() for path, share in self._shares.items())
        return read / max(1, sum(self._sizes.values()))


class Progress:
    """Says every few seconds how many rows are done, how fast, and when the last one will be."""

    def __init__(
        self, log: EventLog, meter: Meter, row_limit: int | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log, self._meter, self._row_limit, self._clock = log, meter, row_limit, clock
        self._rows = 0
        self._start = self._said = clock()

    def add(self, rows: int) -> None:
        self._rows += rows
        now = self._clock()
        if now - self._said < EVERY_S:
            return
        self._said, elapsed, share = now, now - self._start, self._meter.share()
        if self._row_limit:
            share = max(share, self._rows / self._row_limit)
        left_s = elapsed * (1 - share) / share if share else None
        self._log.write("preparing", rows=self._rows, rows_per_s=self._rows / elapsed, left_s=left_s)
