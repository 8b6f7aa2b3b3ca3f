"""What became of the attempts before this one, and whether it is worth going on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from job.attempts.folder import AttemptFolder
from job.errors import Bug, GpuFault, Hang, NoProgress, UnsuitableHost
from job.records import Outcome, Pulse
from job.storage.transfer import in_parallel

ATTEMPTS = 3  # crashes in training without a new durable step, after which another one teaches nothing
_CRASHES = {error.exit_code for error in (Bug, UnsuitableHost, GpuFault, Hang)}
_CAUSE_LENGTH = 300  # characters of each cause in the message that names three


@dataclass(frozen=True)
class Past:
    """An attempt that is over: how it ended (None: it died without a word), and the last that was heard of it."""

    number: int
    outcome: Outcome | None
    pulse: Pulse | None

    @property
    def durable_step(self) -> int:
        """The newest durable step it knew of; -1 for none."""
        step = self.pulse.progress.last_durable_step if self.pulse else None
        return -1 if step is None else step

    @property
    def crashed(self) -> bool:
        """Whether it broke down after training had begun. One that was told to stop did not."""
        if self.pulse is None or not (self.pulse.progress.phase == "train" or self.pulse.progress.step is not None):
            return False
        return not self.pulse.ending if self.outcome is None else self.outcome.code in _CRASHES

    @property
    def end(self) -> str:
        """In words."""
        if self.outcome is None:
            return f"attempt {self.number} died without a word"
        cause = self.outcome.cause
        cause = cause if len(cause) <= _CAUSE_LENGTH else f"{cause[:_CAUSE_LENGTH]} …"
        return f"attempt {self.number}: {self.outcome.error_class} ({self.outcome.code}): {cause}"


def read_past(folders: Iterable[AttemptFolder], fingerprint: str) -> tuple[Past, ...]:
    """Those of *folders* that are of the run with this *fingerprint*, in their order."""

    def read(folder: AttemptFolder) -> Past | None:
        claim = folder.claim()
        if claim is None or claim.fingerprint != fingerprint:
            return None
        return Past(folder.number, folder.outcome(), folder.pulse())

    return tuple(past for past in in_parallel(read, folders) if past)


def crash_loop(attempts: Sequence[Past]) -> NoProgress | None:
    """The error with which the last of *attempts* ends, or the next one refuses to begin, when the latest three broke
    down in training and none has made a step durable that was not so before. Any other end breaks the chain, this
    refusal too: whoever starts the run again after it gets three more tries."""
    before, latest = attempts[:-ATTEMPTS], attempts[-ATTEMPTS:]
    durable = max((past.durable_step for past in before), default=-1)
    if len(latest) < ATTEMPTS or not all(past.crashed and past.durable_step <= durable for past in latest):
        return None
    place = f"step {durable}" if durable >= 0 else "the first step"
    return NoProgress(
        f"Three attempts broke down after {place} without a new durable step: "
        f"{'; '.join(past.end.rstrip('.') for past in latest)}.",
        "Look into attempts/NNNN/ of the output, mend the cause, and run it again for three more tries.",
    )
