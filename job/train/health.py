"""Whether training still goes well, by the raw loss of each step. No torch: all ranks judge the same agreed numbers."""

import math
import statistics
from collections import deque

from job.errors import Diverged

WINDOW = 100  # steps in the band that say where it is: it follows a curve that rises or falls slowly
LEARN = 20  # steps before there is a band: a median of fewer is itself noise
# A single bad batch is common and harmless, and training that comes back within 20 steps has not diverged.
PATIENCE = 20
# How far above the median a loss is still ordinary: 8 standard deviations (of which MAD is a fraction that outliers do
# not move: Rousseeuw and Croux 1993), half of the median where the curve is smooth, and 0.5 where it is near zero, as
# that of preference losses: there the noise of single batches is larger than the loss.
DEVIATIONS, MAD_TO_SIGMA = 8, 1.4826
LEAST_SHARE, LEAST = 0.5, 0.5
# An adapter starts as zero, so its first gradient is never zero unless it is cut off from the loss.
FIRST_STEPS = 3

_FIX = "Lower JOB_LEARNING_RATE, or look at the rows of that step."


class Health:
    """Is told the loss of each step and the gradient norms that are logged, and raises when training is of no use."""

    def __init__(self) -> None:
        self._ordinary: deque[float] = deque(maxlen=WINDOW)
        self._spikes = 0
        self._zero_norms = 0

    @property
    def uneasy(self) -> bool:
        """The newest loss lies outside the band: perhaps one bad batch, perhaps the first step of a divergence."""
        return self._spikes > 0

    def loss(self, step: int, loss: float, learning_rate: float) -> None:
        """Judge the *loss* of *step*: the mean over its trained tokens, unsmoothed.

        Raises:
            Diverged: it is no finite number, or the last PATIENCE losses lie above the band.
        """
        if not math.isfinite(loss):
            raise Diverged(f"loss is {loss} at step {step}, with learning rate {learning_rate:.2e}.", _FIX)
        top = self._top()
        if top is None or loss <= top:
            self._ordinary.append(loss)
            self._spikes = 0
            return
        self._spikes += 1
        if self._spikes >= PATIENCE:
            raise Diverged(
                f"loss is {loss:.4g} at step {step}, the {PATIENCE}th step in a row above {top:.4g}, with learning "
                f"rate {learning_rate:.2e}; the median of the {len(self._ordinary)} ordinary steps before is "
                f"{statistics.median(self._ordinary):.4g}.",
                _FIX,
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

    def _top(self) -> float | None:
        """The highest ordinary loss; None while too few steps are known."""
        if len(self._ordinary) < LEARN:
            return None
        median = statistics.median(self._ordinary)
        mad = statistics.median(abs(loss - median) for loss in self._ordinary)
        return median + max(DEVIATIONS * MAD_TO_SIGMA * mad, LEAST_SHARE * abs(median), LEAST)
