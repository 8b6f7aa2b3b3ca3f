"""``log.jsonl``: one JSON object a line, appended by the supervisor and by rank 0."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


class EventLog:
    """Appends events to a file. A line is one write to an O_APPEND descriptor, so two processes never mix theirs."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock

    def write(self, event: str, **fields: Any) -> None:
        line = json.dumps({"time": round(self._clock(), 3), "event": event, **fields}, ensure_ascii=False, default=str)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode() + b"\n")
        finally:
            os.close(descriptor)


class LineTail:
    """The lines that were appended to a file since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def new(self) -> Iterator[str]:
        """Complete lines only; a half-written last one is left for the next look."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield line.decode(errors="replace").rstrip("\n")


class EventTail:
    """The events that were appended to a log since the last look. A line that a full disk has cut short runs into
    the next one; both are passed over."""

    def __init__(self, path: Path) -> None:
        self._lines = LineTail(path)

    def new(self) -> Iterator[dict[str, Any]]:
        for line in self._lines.new():
            with contextlib.suppress(json.JSONDecodeError):
                yield json.loads(line)
