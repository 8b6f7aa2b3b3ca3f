"""The heart of an attempt: it tells others that the attempt lives and how far it is, and notices a successor."""

import contextlib
import json
import threading
import time
from collections.abc import Callable

from job.attempts.folder import CLAIM, HEARTBEAT, STATUS, AttemptFolder, Rhythm, status, to_bytes
from job.processes import StopRequest, Task
from job.records import Outcome, Progress, Pulse

_LOOK_S = 0.2  # between two looks at whether the run is asked to stop
# Beats that hang pile up. Requests to a store on the network end some time, those to a volume that is gone never do.
_MOST_UNDER_WAY = 8
_JOIN_S = 1.0  # for a beat under way at the end, which may hang in a store


class Heart(threading.Thread):
    """Beats until it is stopped or superseded. A beat that fails is made up for by the next one, which does not wait
    for one that hangs either: a store may take as long as a lease to answer."""

    def __init__(
        self,
        folder: AttemptFolder,
        progress: Callable[[], Progress],
        num_gpus: int,
        rhythm: Rhythm,
        stop: StopRequest,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(daemon=True, name="heart")
        self._folder, self._progress, self._num_gpus = folder, progress, num_gpus
        self._rhythm, self._stop_request, self._clock = rhythm, stop, clock
        self._began, self._beats, self._ending, self._phase = clock(), 0, False, ""
        self._stopped = threading.Event()
        self.superseded = False

    def run(self) -> None:
        under_way: list[Task[None]] = []
        while not (self._stopped.is_set() or self.superseded):
            self._ending, self._phase = self._stop_request.signal is not None, self._progress().phase
            under_way = [beat for beat in under_way if beat.is_alive()]
            with contextlib.suppress(RuntimeError):  # of a machine that has no thread to give now
                under_way += [Task(self._beat)] if len(under_way) < _MOST_UNDER_WAY else []
            self._pause()
            self._beats += 1
        for beat in under_way:
            beat.join()

    def _pause(self) -> None:
        """Until the next beat is due, a signal asks the run to stop, or it enters another phase: whoever waits for it
        should know at once, and of one that dies soon after, whether it had begun to train."""
        due = self._clock() + self._rhythm.beat_s
        while self._clock() < due and not self._stopped.wait(min(_LOOK_S, self._rhythm.beat_s)):
            if self._progress().phase != self._phase or (self._stop_request.signal is not None and not self._ending):
                return

    def _beat(self) -> None:
        """May come late, as what it tells is of the moment at which it does."""
        tells_status = self._beats % self._rhythm.status_beats == 0
        with contextlib.suppress(Exception):  # whatever it is, a heart that stops would give the run away
            self.look()
        if self.superseded:
            return
        with contextlib.suppress(Exception):
            self._folder.put(HEARTBEAT, to_bytes(self.pulse()))
        if tells_status and not (self._stopped.is_set() or self.superseded):  # whose last word, or successor's, it is
            with contextlib.suppress(Exception):
                self.put_status(None)

    def look(self) -> None:
        """Notice whether another attempt has taken this one for dead, as after a long pause of the machine.

        Raises:
            AccessDenied, NetworkExhausted: the store does not say.
        """
        if self._folder.next.read(CLAIM) is not None:
            self.superseded = True

    def pulse(self) -> Pulse:
        return Pulse(
            beat=self._beats,
            elapsed_s=self._clock() - self._began,
            num_gpus=self._num_gpus,
            ending=self._ending,
            progress=self._progress(),
        )

    def put_status(self, outcome: Outcome | None) -> None:
        told = status(self._folder.number, self.pulse(), outcome)
        self._folder.store.put(STATUS, json.dumps(told, ensure_ascii=False, indent=1).encode())

    def stop(self) -> None:
        """Beat no more, but for one last word."""
        self._stopped.set()
        self.join(_JOIN_S)
        self._ending = True
        if not self.superseded:
            with contextlib.suppress(Exception):
                self._folder.put(HEARTBEAT, to_bytes(self.pulse()))
