"""Proof that the adapter was trainable and that training changed it."""

import torch
from torch import nn

from job.errors import AdapterRejected
from job.records import AdapterProof
from job.train.save import whole_adapter

TOKEN_ROWS = "trainable_tokens_delta"  # noqa: S105 (PEFT's name for the rows of new tokens, in embedding and head)


class AdapterWatch:
    """Holds a copy of the trainable tensors as they were before training. Every rank must have one and ask it, as the
    tensors may be spread over all of them."""

    def __init__(self, model: nn.Module) -> None:
        """Raises:
        AdapterRejected: no parameter is trainable.
        """
        self._model = model
        self._before = whole_adapter(model)
        if not self._before:
            raise AdapterRejected(
                "No parameter is trainable, so training would change nothing.", "Check JOB_TARGET_MODULES."
            )

    def prove(self) -> AdapterProof:
        """Compare with the state before training.

        Raises:
            AdapterRejected: a value is not finite, or a tensor is what it was before.
        """
        after = whole_adapter(self._model)
        if broken := [name for name, tensor in after.items() if not torch.isfinite(tensor).all()]:
            raise AdapterRejected(
                f"The adapter holds NaN or infinity, first in {broken[0]}.", "Lower JOB_LEARNING_RATE."
            )
        unchanged = tuple(name for name, tensor in after.items() if torch.equal(tensor, self._before[name]))
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
