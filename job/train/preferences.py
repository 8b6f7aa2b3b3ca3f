"""What the trainers of preferences share: rows that are tokenized already, and steps that are whole."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader, Sampler

from job.train.trainer import AdapterTrainer


class PreferenceTrainer(AdapterTrainer):
    """To stand before one of TRL's trainers: ``class DpoTrainer(PreferenceTrainer, DPOTrainer)``.

    Their losses are means over the rows of a micro-batch, and their metrics want micro-batches of one size on all
    processes. So an epoch has whole steps alone, and rows that do not fill a last one are left out of it.
    """

    fills_rounds = False

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def get_train_dataloader(self) -> DataLoader[Any]:
        loader: DataLoader[Any] = super().get_train_dataloader()
        batches: Any = loader.batch_sampler
        if self.args.world_size > 1:
            batches = batches.batch_sampler  # accelerate's around it hands each process its share
        step = self.plan.global_batch_size
        batches.sampler = First(batches.sampler, self._rows // step * step)
        return loader

    def trial_loss(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        kept = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        return super().trial_loss({**kept, "labels": inputs["input_ids"]})


class First(Sampler[int]):
    """The first *count* indices of *inner*, which are others in each epoch."""

    def __init__(self, inner: Any, count: int) -> None:
        self._inner, self._count = inner, count

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self._inner, "set_epoch"):
            self._inner.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self._inner, self._count)

    def __len__(self) -> int:
        return self._count
