"""Supervised fine-tuning with TRL's SFTTrainer on rows that were tokenized, masked and packed before."""

from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader, Sampler
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTConfig, SFTTrainer

from job.records import Plan
from job.spec import JobSpec
from job.train.trainer import AdapterTrainer
from job.train.whole_rounds import fill_rounds, with_filler


class SftTrainer(AdapterTrainer, SFTTrainer):  # type: ignore[misc]
    """Learns to write what the rows have their labels on.

    The loss of an evaluation is the mean over all trained tokens of the held-out rows, so that its exponential is their
    perplexity and the number of processes does not change it. Upstream's is a mean over batches, of which the last
    ones are filled up with rows that were there before.
    """

    def __init__(self, plan: Plan, *args: Any, eval_dataset: Dataset | None, **settings: Any) -> None:
        self._eval_filler = None if eval_dataset is None or plan.num_processes == 1 else len(eval_dataset)
        rows = eval_dataset if self._eval_filler is None else with_filler(eval_dataset)
        super().__init__(plan, *args, eval_dataset=rows, **settings)

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler[int] | None:
        """Upstream's, which never draws the filler."""
        rows = eval_dataset if self._eval_filler is None else eval_dataset.select(range(self._eval_filler))
        sampler: Sampler[int] | None = super()._get_eval_sampler(rows)
        return sampler

    def get_eval_dataloader(self, eval_dataset: Dataset | None = None) -> DataLoader[Any]:
        loader: DataLoader[Any] = super().get_eval_dataloader(eval_dataset)
        if self._eval_filler is not None:
            fill_rounds(loader, self.args.world_size, self._eval_filler)
        return loader

    def prediction_step(self, model: Any, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        """Also counts the loss and the trained tokens of the batch."""
        predicted = super().prediction_step(model, inputs, *args, **kwargs)
        loss, tokens = predicted[0], (inputs["labels"][..., 1:] != -100).sum()
        self._evaluated += torch.stack([loss.double() * tokens, tokens.double()])
        return predicted

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        self._evaluated = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        output = super().evaluation_loop(*args, **kwargs)
        loss, tokens = self.accelerator.reduce(self._evaluated).tolist()
        output.metrics["eval_loss"] = loss / tokens
        return output


def sft_config(spec: JobSpec, plan: Plan, settings: dict[str, Any]) -> SFTConfig:
    """*settings* that all methods share, and SFT's own."""
    own = {
        "loss_type": spec.loss_type[0],
        "max_length": plan.max_length,
        # Packing makes the collator padding-free; the rows themselves are packed already.
        "packing": plan.packing,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "neftune_noise_alpha": spec.neftune_noise_alpha,
    }
    return SFTConfig(**own | settings)
