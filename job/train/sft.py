"""Supervised fine-tuning with TRL's SFTTrainer on rows that were tokenized, masked and packed before."""

from typing import Any

from trl import SFTConfig, SFTTrainer

from job.records import Plan
from job.spec import JobSpec
from job.train.trainer import AdapterTrainer


class SftTrainer(AdapterTrainer, SFTTrainer):  # type: ignore[misc]
    """Learns to write what the rows have their labels on."""


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
