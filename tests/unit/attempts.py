"""Attempts as seen from another machine, and a clock that tests move."""

import json
import time
from collections.abc import Callable
from typing import Any

from job.attempts import Attempt, Watch
from job.attempts.folder import AttemptFolder, Rhythm
from job.errors import JobError
from job.outcome import failure
from job.output import Output
from job.processes import StopRequest
from job.records import Claim, Outcome, Progress, Pulse
from job.redact import redactor
from job.spec import JobSpec

# Beats that a test can wait for; a lease that no busy machine lets pass between two of them.
QUICK = Rhythm(beat_s=0.1, lease_s=30, status_beats=3)
ELSEWHERE = Claim(fingerprint="", writer="w", host="another boot", pid=1, started=0)


def spec_for(place: str, **settings: Any) -> JobSpec:
    return JobSpec(model="org/base", dataset_uri="org/rows", output_uri=(place,), **settings)


class World:
    """A clock that only moves when somebody sleeps; *happens* then."""

    def __init__(self, happens: Callable[[float], None] = lambda now: None) -> None:
        self.now, self.stop, self.said, self._happens = 0.0, StopRequest(), list[str](), happens

    @property
    def watch(self) -> Watch:
        return Watch(self.stop, self.said.append, lambda: self.now, self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        self._happens(self.now)


def still(attempt: Attempt) -> None:
    """Stop its heart without a word, and with no beat under way that the next test's store would get."""
    attempt._heart._stopped.set()
    attempt._heart.join()


def state(place: str, number: int = 1) -> AttemptFolder:
    return AttemptFolder(Output(place).state, number)


def until(holds: Callable[[], Any]) -> None:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < 20, "it never came to be"
        time.sleep(0.02)


def someone_elses(place: str, *, fingerprint: str | None = None, number: int = 1) -> AttemptFolder:
    """An attempt of another machine, of which nothing has been heard since its first heartbeat."""
    theirs = state(place, number)
    known = {"fingerprint": fingerprint or spec_for(place).fingerprint}
    theirs.store.create(theirs.path("claim.json"), ELSEWHERE.model_copy(update=known).model_dump_json().encode())
    beat(theirs, 0)
    return theirs


def beat(theirs: AttemptFolder, number: int, *, ending: bool = False) -> None:
    pulse = Pulse(beat=number, elapsed_s=number, num_gpus=1, ending=ending, progress=Progress(phase="train"))
    theirs.put("heartbeat.json", pulse.model_dump_json().encode())


def put_outcome(theirs: AttemptFolder, outcome: Outcome) -> None:
    theirs.put("outcome.json", json.dumps(outcome.to_json()).encode())


def ended_with(error: JobError) -> Outcome:
    return failure(error, "train", 1, redactor({}))
