"""A reward model with TRL's RewardTrainer on pairs that were tokenized before: the base with a head that gives one
number, the score of the answer that it has read. The head is trained whole and published with the adapter."""

from typing import Any

import torch
from trl import RewardConfig, RewardTrainer

from job.records import Plan
from job.spec import JobSpec
from job.train.preferences import PreferenceTrainer


class RewardModelTrainer(PreferenceTrainer, RewardTrainer):  # type: ignore[misc]
    """Gives the chosen answer a higher score than the rejected one (Bradley and Terry's model)."""

    def trial_loss(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        scores: torch.Tensor = self.model_wrapped(**inputs, use_cache=False).logits
        return -scores.sum()


def reward_config(spec: JobSpec, plan: Plan, settings: dict[str, Any]) -> RewardConfig:
    """*settings* that all methods share, and those of reward models."""
    return RewardConfig(**{"max_length": plan.max_length} | settings)
