"""How fast training goes and how far it is, from what the workers tell."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from job.records import Progress

# A line is read up to 0.05 s after it was written (POLL_S): over less time than this a speed would be off by a tenth.
SHORTEST_S = 0.5


@dataclass(frozen=True)
class Speed:
    """Over all processes together, evaluations left out."""

    tokens_per_s: float
    step_s: float  # of one step of the optimizer


class Pace:
    """The mean speed since the first logged step of one launch of the workers."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start: tuple[float, int, int] | None = None  # clock, step and tokens at the first logged step
        self._evaluating_s = 0.0

    def event(self, event: dict[str, Any]) -> Speed | None:
        """Hear one line of ``log.jsonl``; the speed, if it is a step at least `SHORTEST_S` behind the first."""
        match event["event"]:
            case "train_begin":
                self._start = None
            case "evaluation":
                self._evaluating_s += event["eval_runtime"]
            case "train":
                return self._measure(event["step"], int(event.get("num_tokens", 0)))
        return None

    def _measure(self, step: int, tokens: int) -> Speed | None:
        now = self._clock() - self._evaluating_s
        if self._start is None:
            self._start = (now, step, tokens)
        elif (elapsed := now - self._start[0]) >= SHORTEST_S:
            return Speed((tokens - self._start[2]) / elapsed, elapsed / max(1, step - self._start[1]))
        return None


@dataclass
class Measured:
    """Seconds that things have taken so far; 0 as long as they have not been done."""

    step_s: float = 0.0  # of the optimizer
    eval_s: float = 0.0  # the longest evaluation
    save_s: float = 0.0  # the newest checkpoint on its way to the disk
    upload_s: float = 0.0  # and to the output


class Live:
    """How far the run is, for every thread to tell and to read: each change replaces the whole."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._pace = Pace(clock)
        self._lock = threading.Lock()
        self.progress = Progress(phase="start")
        self.measured = Measured()

    def enter(self, phase: str) -> None:
        self._update(phase=phase)

    def durable(self, step: int | None) -> None:
        """The newest checkpoint in the output is of *step*; None: there is none."""
        self._update(last_durable_step=step)

    def event(self, event: dict[str, Any]) -> None:
        """Hear one line of ``log.jsonl``."""
        speed = self._pace.event(event)
        match event["event"]:
            case "train_begin":
                self._update(step=event["step"], total_steps=event["total_steps"], tokens_per_s=None, left_s=None)
            case "train":
                self._update(step=event["step"], total_steps=event["total_steps"], loss=event["loss"])
            case "checkpoint":
                self.measured.save_s = event["save_s"]
            case "evaluation":
                self.measured.eval_s = max(self.measured.eval_s, event["eval_runtime"])
                self._update(eval_loss=event["eval_loss"])
        if speed:
            self.measured.step_s = speed.step_s
            left_s = (event["total_steps"] - event["step"]) * speed.step_s
            self._update(tokens_per_s=speed.tokens_per_s, left_s=left_s)

    def _update(self, **changes: Any) -> None:
        with self._lock:
            self.progress = self.progress.model_copy(update=changes)


def duration(seconds: float) -> str:
    """For a person: ``1h05m`` or ``3m20s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
