"""A loss that is a mean over rows: each row weighs the same in its step, however many processes share it."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader

from job.train.trainer import AdapterTrainer

ROWS = "rows"  # of a micro-batch, that are no filler
SHORT = 2  # tokens of each part of a filler
Example = dict[str, Any]


class RowMeansTrainer(AdapterTrainer):
    """To stand before one of TRL's trainers of preferences: ``class DpoTrainer(RowMeansTrainer, DPOTrainer)``.

    Upstream takes the mean of each micro-batch and the mean of these, so that rows of a short one, at the end of an
    epoch, would weigh more, and a filler would weigh as much as a row. Here fillers are left out of each micro-batch,
    and its loss is weighted by the rows in it. In a whole step the weight is exactly 1.
    """

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """They are tokenized already."""
        return dataset

    def is_filler(self, example: Example) -> bool:
        """Whether *example* is what `make_filler` made. No row of a data set is: the gate lets none pass."""
        return bool(example["chosen_ids"] == example["rejected_ids"])

    @staticmethod
    def make_filler(row: Example) -> Example:
        chosen = row["chosen_ids"][:SHORT]
        return {name: values[:SHORT] for name, values in row.items()} | {"chosen_ids": chosen, "rejected_ids": chosen}

    def get_train_dataloader(self) -> DataLoader[Any]:
        collate: Callable[[list[Example]], dict[str, Any]] = vars(self)["data_collator"]
        self.data_collator = lambda examples: self._collate(examples, collate)
        try:
            loader: DataLoader[Any] = super().get_train_dataloader()
        finally:
            self.data_collator = collate
        return loader

    def _collate(self, examples: list[Example], collate: Callable[[list[Example]], dict[str, Any]]) -> dict[str, Any]:
        """A micro-batch without its fillers, and how many rows it has. A process without a row computes all the same,
        as the others wait for its part in every collective."""
        rows = [example for example in examples if not self.is_filler(example)]
        batch = collate([self.as_row(example) for example in rows or examples[:1]])
        return {**batch, ROWS: torch.tensor(len(rows))}

    def as_row(self, example: Example) -> Example:
        """*example* as the collator takes it."""
        return example

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if samples:
            rows = torch.stack([batch[ROWS].to(device) for batch in samples]).sum()
            self._rows_of_usual = self.accelerator.gather(rows).sum() / (len(samples) * self.args.world_size)
        return samples, items

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        rows = inputs.pop(ROWS, None)
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        return loss if rows is None else loss * (rows / self._rows_of_usual)

    def trial_loss(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        kept = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        return super().trial_loss({**kept, "labels": inputs["input_ids"]})
