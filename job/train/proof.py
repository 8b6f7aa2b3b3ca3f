"""Proof that the adapter was trainable and that training changed it."""

from collections.abc import Iterable

import torch
from torch import nn

from job.adapters import KINDS
from job.errors import AdapterRejected
from job.records import AdapterProof
from job.train.save import check_finite, whole_adapter

TOKEN_ROWS = "trainable_tokens_delta"  # noqa: S105 (PEFT's name for the rows of new tokens, in embedding and head)


class AdapterWatch:
    """Holds a copy of the trainable tensors as they were before training. Every rank must have one and ask it, as the
    tensors may be spread over all of them."""

    def __init__(self, model: nn.Module, adapter: str = "lora") -> None:
        """*adapter*: what ``JOB_ADAPTER`` says that *model* has.

        Raises:
            AdapterRejected: no parameter is trainable.
        """
        self._model, self._adapter = model, adapter
        self.initial = whole_adapter(model)
        if not self.initial:
            raise AdapterRejected(
                "No parameter is trainable, so training would change nothing.", "Check JOB_TARGET_MODULES."
            )

    def prove(self) -> AdapterProof:
        """Compare with the state before training.

        Raises:
            AdapterRejected: a tensor is what it was before.
            Diverged: a value is not finite.
        """
        proof = self._compare()
        if unlearned := _unlearned(proof, self.initial):
            raise AdapterRejected(
                f"Training left {len(unlearned)} of {proof.tensors} adapter tensors as they were, "
                f"first {unlearned[0]}.",
                "Raise JOB_LEARNING_RATE or train for more steps.",
            )
        return proof

    def proof_if_learned(self) -> AdapterProof | None:
        """The same of an unfinished training, which need not have come so far that every tensor has changed: then None.

        Raises:
            Diverged: a value is not finite.
        """
        proof = self._compare()
        return None if _unlearned(proof, self.initial) else proof

    def _compare(self) -> AdapterProof:
        after = whole_adapter(self._model)
        check_finite(after)
        unchanged = tuple(
            name
            for name, tensor in after.items()
            if torch.equal(tensor, self.initial[name]) or does_nothing(self._adapter, name, tensor)
        )
        return AdapterProof(
            trainable_parameters=sum(tensor.numel() for tensor in after.values()),
            tensors=len(after),
            changed_tensors=len(after) - len(unchanged),
            unchanged=unchanged,
        )


def does_nothing(adapter: str, name: str, tensor: torch.Tensor) -> bool:
    """Whether the *adapter*'s tensor *name* is one that decides whether its module is changed at all, and says no: a
    ``lora_B`` of zeros, factors of one."""
    kind = KINDS[adapter]
    return kind.neutral is not None and kind.mark in name and bool((tensor == kind.neutral).all())


def _unlearned(proof: AdapterProof, names: Iterable[str]) -> list[str]:
    """What should have changed. A new token that stands before no trained one leaves the embedding as it was; the head
    learns it all the same."""
    learns_tokens = any(TOKEN_ROWS in name for name in names if name not in proof.unchanged)
    return [name for name in proof.unchanged if TOKEN_ROWS not in name or not learns_tokens]
