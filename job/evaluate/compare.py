"""What an adapter makes of a few rows, loaded anew, against what the trained model in memory made of them.

Logits that are near each other are not enough where matrices are multiplied in 16 bits: rounding can move them further
than an adapter that has learned little. So what the adapter *does* to them is compared too, with the rounding that the
base model alone shows between the two processes.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from job.errors import AdapterRejected
from job.evaluate.load import Tuned, device_of
from job.evaluate.tolerance import tolerance
from job.records import EvaluateTask
from job.spec import JobSpec
from job.train.model import DTYPES
from job.train.proof_logits import last_logits, read_proof_logits

_LEARN_MORE = "Raise JOB_LEARNING_RATE or train for more steps."
_TRAIN_AGAIN = "Run the job again on another machine, with another JOB_OUTPUT_URI."
# Of the largest logit: what the adapter adds has to be more than the rounding of float32 sums.
_MOVES = 1e-6
# How far its effect may be apart: of the effect itself, for kernels that round the adapter's own products otherwise,
# and of the base's rounding, which two differences of logits bring twice each, with some room.
_OF_EFFECT, _OF_ROUNDING = 0.1, 4.0


@dataclass(frozen=True)
class Compared:
    """Figures of a few trained rows, as `job.records.GateFigures` has them."""

    moved: float
    apart: float
    tolerance: float
    effect_apart: float | None
    effect_tolerance: float | None


class _Effect:
    """Sums of squares over the logits of all rows: of what the trained adapter does, of how far the loaded one's
    effect is from that, and of how far the base's logits are apart."""

    def __init__(self) -> None:
        self._trained = self._apart = self._base = 0.0
        self.base_apart = 0.0  # the most

    def add(self, trained: torch.Tensor, trained_base: torch.Tensor, tuned: torch.Tensor, base: torch.Tensor) -> None:
        self._trained += _squares(trained - trained_base)
        self._apart += _squares((tuned - base) - (trained - trained_base))
        self._base += _squares(base - trained_base)
        self.base_apart = max(self.base_apart, _most(base - trained_base))

    @property
    def apart(self) -> float | None:
        """As a share of the trained adapter's effect; None: training has left nothing to compare with."""
        return (self._apart / self._trained) ** 0.5 if self._trained else None

    @property
    def allowed(self) -> float | None:
        return _OF_EFFECT + _OF_ROUNDING * (self._base / self._trained) ** 0.5 if self._trained else None


def compare(spec: JobSpec, task: EvaluateTask, model: Tuned, proof: Path) -> Compared:
    """*model*, loaded anew, against *proof*, what the trained model made of a few rows (`job.train.proof_logits`).

    Raises:
        AdapterRejected: the adapter moves nothing, or not what the trained one moved.
    """
    moved = apart = largest = 0.0
    effect = _Effect()
    for row in read_proof_logits(proof):
        tuned, base = _logits(model, row.ids, task)
        if tuned.shape != row.tuned.shape:
            raise AdapterRejected(
                f"The loaded model gives logits of shape {_shape(tuned)}, the trained one {_shape(row.tuned)}.",
                _TRAIN_AGAIN,
            )
        moved, apart = max(moved, _most(tuned - base)), max(apart, _most(tuned - row.tuned))
        largest = max(largest, _most(row.tuned))
        if row.base is not None:
            effect.add(row.tuned, row.base, tuned, base)
    found = Compared(moved, apart, tolerance(spec, task.plan) * largest, effect.apart, effect.allowed)
    _check(found, effect.base_apart, _MOVES * largest)
    return found


def _logits(model: Tuned, ids: torch.Tensor, task: EvaluateTask) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the trained model and of its base."""
    device, dtype = device_of(task), DTYPES[task.plan.precision]
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        tuned = last_logits(model.model, ids.to(device))
        with model.base() as base:
            return tuned, last_logits(base, ids.to(device))


def _check(found: Compared, base_apart: float, moves: float) -> None:
    if not base_apart <= found.tolerance:
        raise AdapterRejected(
            f"The base model's logits, without the adapter, are {base_apart:.2g} apart from those in training; "
            f"rounding explains {found.tolerance:.2g}.",
            _TRAIN_AGAIN,
        )
    if not found.apart <= found.tolerance:
        raise AdapterRejected(
            f"The loaded weights' logits are {found.apart:.2g} apart from those that training ended with; rounding "
            f"explains {found.tolerance:.2g}.",
            _TRAIN_AGAIN,
        )
    if found.moved <= moves:
        raise AdapterRejected(
            f"The trained weights move no logit of the base model by more than {found.moved:.2g}, which is rounding.",
            _LEARN_MORE,
        )
    if found.effect_apart is not None and not found.effect_apart <= (found.effect_tolerance or 0.0):
        raise AdapterRejected(
            f"What the loaded adapter does to the logits is {found.effect_apart:.0%} apart from what it did in "
            f"training; rounding explains {found.effect_tolerance:.0%}.",
            _TRAIN_AGAIN,
        )


def _most(difference: torch.Tensor) -> float:
    return float(difference.abs().max())


def _squares(difference: torch.Tensor) -> float:
    return float(difference.double().square().sum())


def _shape(tensor: torch.Tensor) -> str:
    return "×".join(map(str, tensor.shape))
