"""``attempts/NNNN/`` of an output, and the pace at which it is written."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from job.errors import NotFound
from job.records import Claim, Outcome, Pulse
from job.storage import Store

CLAIM, HEARTBEAT, OUTCOME, STATUS = "claim.json", "heartbeat.json", "outcome.json", "status.json"
_PATH = re.compile(r"attempts/(\d+)/")

RecordT = TypeVar("RecordT", bound=BaseModel)


@dataclass(frozen=True)
class Rhythm:
    """How often a store hears of a run, and how long it takes to believe in its end."""

    beat_s: float  # between two heartbeats
    lease_s: float  # of silence, after which an attempt counts as dead: three beats
    status_beats: int  # between two writes of status.json


PROMPT = Rhythm(beat_s=10, lease_s=30, status_beats=3)
# Each write to the Hub is a commit, and a repository takes 128 an hour; checkpoints and results need some of them.
SPARING = Rhythm(beat_s=60, lease_s=180, status_beats=5)


@dataclass(frozen=True)
class AttemptFolder:
    """The files of attempt *number*. What is not there, or cannot be understood, reads as None."""

    store: Store
    number: int

    @property
    def next(self) -> "AttemptFolder":
        return AttemptFolder(self.store, self.number + 1)

    def path(self, name: str) -> str:
        return f"attempts/{self.number:04d}/{name}"

    def read(self, name: str) -> bytes | None:
        try:
            return self.store.read(self.path(name))
        except NotFound:
            return None

    def put(self, name: str, data: bytes) -> None:
        self.store.put(self.path(name), data)

    def claim(self) -> Claim | None:
        return parse(Claim, self.read(CLAIM))

    def pulse(self) -> Pulse | None:
        return parse(Pulse, self.read(HEARTBEAT))

    def outcome(self) -> Outcome | None:
        try:
            return Outcome.from_json(self.read(OUTCOME) or b"")
        except ValueError:
            return None


def find_attempts(store: Store, paths: Iterable[str]) -> list[AttemptFolder]:
    """The attempts that have files among *paths*, the first one first."""
    numbers = {int(match[1]) for path in paths if (match := _PATH.match(path))}
    return [AttemptFolder(store, number) for number in sorted(numbers)]


def parse(kind: type[RecordT], data: bytes | None) -> RecordT | None:
    """*data* as a *kind*; None if it is none, or that of another version of this job."""
    try:
        return kind.model_validate_json(data or b"")
    except ValueError:
        return None


def to_bytes(record: BaseModel) -> bytes:
    return record.model_dump_json(indent=1).encode()


def status(number: int, pulse: Pulse, outcome: Outcome | None) -> dict[str, Any]:
    """How far attempt *number* is, as ``status.json`` and the verb `status` tell it; *outcome* once it has ended."""
    progress = json.loads(pulse.progress.model_dump_json())  # a loss that is no number becomes null
    ended = outcome.to_json() if outcome else None
    return {"attempt": number, "elapsed_s": round(pulse.elapsed_s, 1), **progress, "ended": ended}
