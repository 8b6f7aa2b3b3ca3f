"""Proof that the adapter was trainable and that training changed it."""

import zlib

import torch
from torch import nn

from job.adapters import KINDS
from job.errors import AdapterRejected
from job.records import AdapterProof
from job.train.save import check_finite, each_whole, has_taken_from_base, whole_adapter

TOKEN_ROWS = "trainable_tokens_delta"  # noqa: S105 (PEFT's name for the rows of new tokens, in embedding and head)


class AdapterWatch:
    """Knows the checksums of the trainable tensors as they were before training. Every rank must have one and ask it,
    as the tensors may be spread over all of them."""

    def __init__(self, model: nn.Module, adapter: str = "lora") -> None:
        """*adapter*: what ``JOB_ADAPTER`` says that *model* has.

        Raises:
            AdapterRejected: no parameter is trainable.
        """
        self._model, self._adapter = model, adapter
        # What the adapter has taken from the base, which the published one gives back.
        self.initial = whole_adapter(model) if has_taken_from_base(model) else {}
        self._before: dict[str, int] = {}
        self._slight: set[str] = set()
        for name, tensor in each_whole(model):
            self._before[name] = _checksum(tensor)
            if KINDS[adapter].is_full and tensor.ndim < 2:
                self._slight.add(name)
        if not self._before:
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
        if unlearned := self._unlearned(proof):
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
        return None if self._unlearned(proof) else proof

    def _compare(self) -> AdapterProof:
        parameters, unchanged = 0, []
        for name, tensor in each_whole(self._model):
            check_finite({name: tensor})
            parameters += tensor.numel()
            if _checksum(tensor) == self._before[name] or does_nothing(self._adapter, name, tensor):
                unchanged.append(name)
        return AdapterProof(
            trainable_parameters=parameters,
            tensors=len(self._before),
            changed_tensors=len(self._before) - len(unchanged),
            unchanged=tuple(unchanged),
        )

    def _unlearned(self, proof: AdapterProof) -> list[str]:
        """What should have changed. A new token that stands before no trained one leaves the embedding as it was; the
        head learns it all the same. Of a whole model biases and the factors of norms may be as they were: one near 1
        has no neighbour in 16 bits that a small step would reach."""
        needed = [name for name in proof.unchanged if name not in self._slight]
        learns_tokens = any(TOKEN_ROWS in name for name in self._before if name not in proof.unchanged)
        return [name for name in needed if TOKEN_ROWS not in name or not learns_tokens]


def _checksum(tensor: torch.Tensor) -> int:
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data)


def does_nothing(adapter: str, name: str, tensor: torch.Tensor) -> bool:
    """Whether the *adapter*'s tensor *name* is one that decides whether its module is changed at all, and says no: a
    ``lora_B`` of zeros, factors of one."""
    kind = KINDS[adapter]
    return kind.neutral is not None and kind.mark in name and bool((tensor == kind.neutral).all())
