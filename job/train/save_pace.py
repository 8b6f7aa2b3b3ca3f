"""When rank 0 wants a checkpoint, and whether one still fits before a deadline. Pure but for the clock."""

import time
from collections import deque
from collections.abc import Callable

from job.records import StopNotice

STOP, STOP_AND_SAVE = 1, 2  # how to stop
# Saving at most every 50 times as long as it takes leaves 98 % of the time to training.
SAVES_PART = 50
FLOOR_S = 60.0  # a minute's work is not worth more; stores and disks are spared
# While so many wait to be pushed, no more are saved by time: how long the first push takes nobody knows until it has
# ended, and each takes space. The next is saved as soon as there are fewer.
WAITING = 3
# A save may take longer than the one before, and what follows it (the adapter, the result) takes a moment too.
SAVE_MARGIN, AFTER_S = 1.5, 1.0
# How long the first save takes nobody knows. It is tried unless there is hardly any time: one that is cut short harms
# nothing but itself.
UNMEASURED_S = 1.0


class SavePace:
    """Measures saves and steps, and decides by them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, heard_later: bool) -> None:
        """*heard_later*: the other ranks hear of a stop one step after this one."""
        self._clock, self._heard_later = clock, heard_later
        self._since: float | None = None  # the newest save, or else the first step
        self._stepped_at: float | None = None
        self._gaps_s: deque[float] = deque(maxlen=2)  # between the ends of the last three steps
        self._save_s: float | None = None

    def stepped(self) -> None:
        """A step has ended."""
        now = self._clock()
        if self._stepped_at is not None:
            self._gaps_s.append(now - self._stepped_at)
        self._stepped_at = now
        if self._since is None:
            self._since = now

    @property
    def step_s(self) -> float:
        """Seconds of a step. An evaluation or a save makes one of two gaps longer. The time since the step's beginning
        would not do: right after a save, the device has yet to do what the host has asked of it."""
        return min(self._gaps_s, default=0.0)

    def saved(self, save_s: float) -> None:
        """A save has ended, for which training stood still."""
        self._save_s, self._since = save_s, self._clock()

    def due(self, upload_s: float, waiting: int) -> bool:
        """Whether the time for a checkpoint has come, where one takes *upload_s* to be pushed and so many are *waiting*
        for it; once for each."""
        interval = max(FLOOR_S, SAVES_PART * (self._save_s or 0.0), upload_s)
        if waiting >= WAITING or self._since is None or self._clock() - self._since < interval:
            return False
        self._since = self._clock()
        return True

    def stop(self, notice: StopNotice, upload_s: float) -> int:
        """How to stop: with a checkpoint where it can be saved and pushed before the notice's deadline."""
        left = notice.deadline - self._clock() - (self.step_s if self._heard_later else 0.0)
        if self._save_s is None:
            return STOP_AND_SAVE if left >= UNMEASURED_S else STOP
        return STOP_AND_SAVE if left >= self._save_s * SAVE_MARGIN + upload_s + AFTER_S else STOP
