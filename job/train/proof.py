"""Proof that the adapter was trainable and that training changed it."""

import torch
from torch import nn

from job.errors import AdapterRejected
from job.records import AdapterProof

TOKEN_ROWS = "trainable_tokens_delta"  # noqa: S105 (PEFT's name for the rows of new tokens, in embedding and head)


class AdapterWatch:
    """Holds a copy of the trainable tensors as they were before training."""

    def __init__(self, model: nn.Module) -> None:
        """Raises:
        AdapterRejected: no parameter is trainable.
        """
        self._model = model
        self._before = {name: tensor.detach().cpu().clone() for name, tensor in _trainable(model).items()}
        if not self._before:
            raise AdapterRejected(
                "No parameter is trainable, so training would change nothing.", "Check JOB_TARGET_MODULES."
            )

    def prove(self) -> AdapterProof:
        """Compare with the state before training.

        Raises:
            AdapterRejected: a value is not finite, or a tensor is what it was before.
        """
        after = _trainable(self._model)
        if broken := [name for name, tensor in after.items() if not torch.isfinite(tensor).all()]:
            raise AdapterRejected(
                f"The adapter holds NaN or infinity, first in {broken[0]}.", "Lower JOB_LEARNING_RATE."
            )
        unchanged = tuple(name for name, tensor in after.items() if torch.equal(tensor.cpu(), self._before[name]))
        # A new token that stands before no trained one leaves the embedding as it was; the head learns it all the same.
        learns_tokens = any(TOKEN_ROWS in name for name in after if name not in unchanged)
        if unlearned := [name for name in unchanged if TOKEN_ROWS not in name or not learns_tokens]:
            raise AdapterRejected(
                f"Training left {len(unlearned)} of {len(after)} adapter tensors as they were, first {unlearned[0]}.",
                "Raise JOB_LEARNING_RATE or train for more steps.",
            )
        return AdapterProof(
            trainable_parameters=sum(tensor.numel() for tensor in after.values()),
            tensors=len(after),
            changed_tensors=len(after) - len(unchanged),
            unchanged=unchanged,
        )


def _trainable(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
