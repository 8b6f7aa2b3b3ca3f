"""Taking hold of a run, and what its holder can do."""

import contextlib
import json
import time
from collections.abc import Callable, Sequence

from job.attempts.folder import CLAIM, OUTCOME, PROMPT, SPARING, AttemptFolder, Rhythm, find_attempts, to_bytes
from job.attempts.heart import Heart
from job.attempts.history import Past, read_past
from job.attempts.liveness import Watch, make_claim, outlast
from job.errors import JobError, OutputTaken
from job.output import Output
from job.processes import Task
from job.records import Claim, Outcome, Progress
from job.spec import JobSpec
from job.storage import Store

_LOST_S = 0.2  # after a claim that another one has won
_SETTLE_S = 2.0  # for a rival's write to land, on a store that lets two win at the same moment
_END_S = 10.0  # for the store to take the last words
_WAITS_S = (0.5, 1.0, 2.0)  # between the tries of the outcome


class Attempt:
    """The one live attempt at a run; its heart beats from the claim on."""

    def __init__(self, folder: AttemptFolder, earlier: Sequence[Past], heart: Heart) -> None:
        self._folder, self._heart = folder, heart
        self.earlier = tuple(earlier)

    @property
    def number(self) -> int:
        return self._folder.number

    @property
    def store(self) -> Store:
        return self._folder.store

    def put(self, name: str, data: bytes) -> None:
        self._folder.put(name, data)

    def check(self) -> None:
        """For loops that wait: costs nothing and knows what the last heartbeat saw.

        Raises:
            OutputTaken: another attempt has taken over.
        """
        if self._heart.superseded:
            raise OutputTaken(
                f"Attempt {self.number + 1} has taken over: this one had been silent for too long.",
                "Nothing is to be done: the run goes on there.",
            )

    def confirm(self) -> None:
        """For the moment before a write that lasts: asks the store itself.

        Raises:
            OutputTaken: another attempt has taken over.
            AccessDenied, NetworkExhausted: the store does not say.
        """
        self._heart.look()
        self.check()

    def past(self, outcome: Outcome) -> Past:
        """This attempt as later ones will see it, if it ends with *outcome*."""
        return Past(self.number, outcome, self._heart.pulse())

    def end(self, outcome: Outcome, within_s: float = _END_S) -> None:
        """Leave *outcome* with the run and let go of it. Returns within seconds, *within_s* at most, whatever the store
        does: the outcome is told elsewhere too."""
        Task(lambda: self._end(outcome)).join(min(_END_S, within_s))

    def _end(self, outcome: Outcome) -> None:
        self._heart.stop()
        for wait_s in _WAITS_S:
            try:
                self.put(OUTCOME, json.dumps(outcome.to_json(), ensure_ascii=False, indent=1).encode())
                break
            except JobError:
                time.sleep(wait_s)
        if not self._heart.superseded:
            with contextlib.suppress(JobError):
                self._heart.put_status(outcome)


def claim(
    output: Output, spec: JobSpec, progress: Callable[[], Progress], num_gpus: int, watch: Watch,
    rhythm: Rhythm | None = None,
) -> Attempt:  # fmt: skip
    """Take hold of the run at *output*: at once where nobody has it, else after its holder is over.

    The one before may have finished in the meantime, so the caller looks for a result again before it does anything;
    then it marks the place as its own.

    Raises:
        OutputTaken: a live attempt holds the run, or the place keeps a checkpoint of a run with other settings.
        Interrupted: a signal arrived.
    """
    rhythm = rhythm or rhythm_of(output)
    mine, dead = make_claim(spec.fingerprint), 0
    while True:
        paths = output.state_paths()
        attempts = find_attempts(output.state, paths)
        newest = attempts[-1] if attempts else AttemptFolder(output.state, 0)
        if newest.number > dead and newest.path(OUTCOME) not in paths:
            outlast(newest, output.text, rhythm, watch)
            dead = newest.number
            continue  # it may have left more than was there when the waiting began
        output.refuse_other_run(spec, paths)
        earlier = read_past(attempts, spec.fingerprint)  # before the claim: from then on the heart has to beat
        watch.stop.check()
        if _win(newest.next, mine, output.conditional, watch):
            heart = Heart(newest.next, progress, num_gpus, rhythm, watch.stop)
            heart.start()
            return Attempt(newest.next, earlier, heart)
        watch.sleep(_LOST_S)  # for the winner's claim to be seen


def rhythm_of(output: Output) -> Rhythm:
    return SPARING if output.on_hub else PROMPT


def _win(folder: AttemptFolder, mine: Claim, conditional: bool, watch: Watch) -> bool:
    """Whether *mine* becomes the claim of *folder*. Where the store cannot tell who was first, the last one is."""
    if not folder.store.create(folder.path(CLAIM), to_bytes(mine)):
        return False
    if conditional:
        return True
    watch.sleep(_SETTLE_S)
    kept = folder.claim()
    return kept is not None and kept.writer == mine.writer
