"""Whether training still goes well, by the raw loss of each step. No torch: all ranks judge the same agreed numbers."""

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

from job.errors import Diverged

WINDOW = 100  # steps in the band that say where it is: it follows a curve that rises or falls slowly
LEARN = 20  # steps before there is a band: a median of fewer is itself noise
# A single bad batch is common and harmless, and training that comes back within 20 steps has not diverged.
PATIENCE = 20
# The end does not wait for so many: the last 3 losses above the band are no single bad batch, and none will come back.
AT_THE_END = 3
# How far above the median a loss is still ordinary: 8 standard deviations (of which MAD is a fraction that outliers do
# not move: Rousseeuw and Croux 1993), half of the median where the curve is smooth, and 0.5 where it is near zero, as
# that of preference losses: there the noise of single batches is larger than the loss.
DEVIATIONS, MAD_TO_SIGMA = 8, 1.4826
LEAST_SHARE, LEAST = 0.5, 0.5
# Before there is a band, the later half of the losses is compared with the first one, which is the base model's own: a
# single batch of one long row can be off by a third of that, and what has diverged is near the logarithm of the
# vocabulary's size, mostly 10 to 12.
EXPLODED_SHARE, EXPLODED, FEWEST = 3.0, 1.0, 6
# The loss scale of fp16 begins at 2^16 and is halved at every step that overflows: after so many it is below 2^-14, and
# no scale will do.
SKIPPED = 30
# An adapter starts as zero, so its first gradient is never zero unless it is cut off from the loss.
FIRST_STEPS = 3

_FIX = "Lower JOB_LEARNING_RATE, or look at the rows of that step."


class Health:
    """Is told the loss of each step and the gradient norms that are logged, and raises when training is of no use."""

    def __init__(self) -> None:
        self._ordinary: deque[float] = deque(maxlen=WINDOW)
        self._spikes = 0
        self._zero_norms = 0
        self._skipped = 0  # steps in a row
        self._newest = (0, 0.0, 0.0)  # step, loss and learning rate

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it, for JSON: without this, a resumed run would learn its band from losses that
        may have left it. Spikes are none, as nothing uneasy is saved."""
        return {"ordinary": list(self._ordinary), "zero_norms": self._zero_norms}

    def recall(self, state: Mapping[str, Any]) -> None:
        """Go on from the *state* in a checkpoint."""
        self._ordinary.extend(state["ordinary"])
        self._zero_norms = state["zero_norms"]

    @property
    def uneasy(self) -> bool:
        """The newest loss lies outside the band: perhaps one bad batch, perhaps the first step of a divergence."""
        return self._spikes > 0

    def loss(self, step: int, loss: float, learning_rate: float) -> None:
        """Judge the *loss* of *step*: the mean over its trained tokens, unsmoothed.

        Raises:
            Diverged: it is no finite number, the last PATIENCE losses lie above the band, or those that would make up
                the band have left the first one far below.
        """
        if not math.isfinite(loss):
            raise Diverged(f"loss is {loss} at step {step}, with learning rate {learning_rate:.2e}.", _FIX)
        self._newest, top = (step, loss, learning_rate), self._top()
        if top is None or loss <= top:
            self._ordinary.append(loss)
            self._spikes = 0
            if len(self._ordinary) == LEARN:
                self._check_beginning()
            return
        self._spikes += 1
        if self._spikes >= PATIENCE:
            raise self._diverged()

    def end(self) -> None:
        """There are no more steps.

        Raises:
            Diverged: the last losses, AT_THE_END or more, lie above the band; or there were too few for one, and the
            later ones are far above the first.
        """
        if self._spikes >= AT_THE_END:
            raise self._diverged()
        if FEWEST <= len(self._ordinary) < LEARN:
            self._check_beginning()

    def step(self, step: int, skipped: bool) -> None:
        """Judge whether fp16's loss scaling has *skipped* the optimizer's *step*.

        Raises:
            Diverged: so have the SKIPPED last ones.
        """
        self._skipped = self._skipped + 1 if skipped else 0
        if self._skipped == SKIPPED:
            raise Diverged(
                f"The gradients of {SKIPPED} steps in a row, until step {step}, overflow fp16 at any loss scale.", _FIX
            )

    def grad_norm(self, step: int, norm: float, learning_rate: float, skipped: bool) -> None:
        """Judge the gradient *norm* of *step*. *skipped*: fp16's loss scaling left the step out, as it does now and
        then to find how large a scale may be.

        Raises:
            Diverged: it is no finite number, or zero in each of the first steps.
        """
        if not math.isfinite(norm) and not skipped:
            raise Diverged(f"grad_norm is {norm} at step {step}, with learning rate {learning_rate:.2e}.", _FIX)
        self._zero_norms += norm == 0 and step <= FIRST_STEPS
        if self._zero_norms == FIRST_STEPS:
            raise Diverged(
                f"grad_norm is 0 in each of the first {FIRST_STEPS} steps: nothing that is trained has a part in the "
                "loss.",
                "Check JOB_TARGET_MODULES, and that the rows have answers to learn.",
            )

    def _check_beginning(self) -> None:
        first, *_ = losses = list(self._ordinary)
        later = statistics.median(losses[len(losses) // 2 :])
        if later > EXPLODED_SHARE * first + EXPLODED:
            step, _, learning_rate = self._newest
            raise Diverged(
                f"loss has risen from {first:.4g} to {later:.4g} within {len(losses)} steps, until step {step}, with "
                f"learning rate {learning_rate:.2e}.",
                _FIX,
            )

    def _diverged(self) -> Diverged:
        step, loss, learning_rate = self._newest
        return Diverged(
            f"loss is {loss:.4g} at step {step}, the last of {self._spikes} in a row above {self._top():.4g}, with "
            f"learning rate {learning_rate:.2e}; the median of the {len(self._ordinary)} ordinary steps before is "
            f"{statistics.median(self._ordinary):.4g}.",
            _FIX,
        )

    def _top(self) -> float | None:
        """The highest ordinary loss; None while too few steps are known."""
        if len(self._ordinary) < LEARN:
            return None
        median = statistics.median(self._ordinary)
        mad = statistics.median(abs(loss - median) for loss in self._ordinary)
        return median + max(DEVIATIONS * MAD_TO_SIGMA * mad, LEAST_SHARE * abs(median), LEAST)


class RewardHealth(Health):
    """The same where the loss is no measure: of rloo and grpo it is near zero at every step, whatever is learned, and
    what is learned from is the difference between answers. Where all of them get the same reward there is none, nor a
    gradient: that is common in the first steps, and lasts where the reward is out of reach, which the proof of what was
    learned tells at the end."""

    def loss(self, step: int, loss: float, learning_rate: float) -> None:
        """Raises:
        Diverged: it is no finite number.
        """
        if not math.isfinite(loss):
            raise Diverged(f"loss is {loss} at step {step}, with learning rate {learning_rate:.2e}.", _FIX)

    def grad_norm(self, step: int, norm: float, learning_rate: float, skipped: bool) -> None:
        """Raises:
        Diverged: it is no finite number.
        """
        if not math.isfinite(norm) and not skipped:
            raise Diverged(f"grad_norm is {norm} at step {step}, with learning rate {learning_rate:.2e}.", _FIX)
