"""Whether each part of an adapter that was meant to learn has learned: it is not what it began as."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.utils import ModulesToSaveWrapper

from job.adapters import KINDS
from job.evaluate.load import Tuned

ADAPTER = "default"


@dataclass(frozen=True)
class Part:
    """One tensor, by its name in the model."""

    name: str
    learned: bool
    spare: bool = False  # it need not, where another one like it has


def parts(tuned: Tuned, adapter: str) -> Iterator[Part]:
    """The tensors of *adapter*, as `job.adapters.KINDS` names it, that tell whether it has learned: those that begin at
    nothing, matrices that are trained whole, and rows of new tokens.

    A new token that stands before no trained one leaves the embedding as it was; the head learns it all the same. Of a
    whole model they are its matrices: in 16 bits a factor of a norm, near 1, has no neighbour within a small step.
    """
    kind, model = KINDS[adapter], tuned.model
    if kind.is_full:
        yield from _matrices(tuned)
        return
    for name, parameter in model.named_parameters():
        if kind.mark in name:
            neutral = 0.0 if kind.neutral is None else kind.neutral
            yield Part(name, learned=bool((parameter != neutral).any()))
    for name, module in model.named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            yield from _whole(name, module)
        elif isinstance(module, TrainableTokensLayer):
            yield _rows(name, module)


def unlearned(found: list[Part]) -> list[str]:
    """The names of those that have learned nothing and should have."""
    rows_learned = any(part.spare and part.learned for part in found)
    return [part.name for part in found if not part.learned and not (part.spare and rows_learned)]


def _matrices(tuned: Tuned) -> Iterator[Part]:
    with tuned.base() as base:
        before = dict(base.named_parameters())
    for name, parameter in tuned.model.named_parameters():
        if parameter.ndim > 1:
            yield Part(name, learned=_differ(parameter, before[name]))


def _whole(name: str, module: ModulesToSaveWrapper) -> Iterator[Part]:
    before = dict(module.original_module.named_parameters())
    for own, parameter in module.modules_to_save[ADAPTER].named_parameters():
        yield Part(f"{name}.{own}", learned=_differ(parameter, before[own]))


def _rows(name: str, module: TrainableTokensLayer) -> Part:
    rows, before = module.trainable_tokens_delta[ADAPTER], module.trainable_tokens_original[ADAPTER]
    return Part(name, learned=_differ(rows, before), spare=True)


def _differ(one: torch.Tensor, other: torch.Tensor) -> bool:
    """By more than the rounding of a dtype to which only one of them has been rounded."""
    return not torch.equal(one.detach().to(other.dtype), other.to(one.device))
