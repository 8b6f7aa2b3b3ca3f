"""REINFORCE leave-one-out with TRL's RLOOTrainer (Ahmadian et al. 2024, arXiv 2402.14740)."""

from typing import Any

from trl import RLOOConfig, RLOOTrainer

from job.spec import JobSpec
from job.train.online import OnlineTrainer, online_settings


class RlooTrainer(OnlineTrainer, RLOOTrainer):  # type: ignore[misc]
    """Makes answers likelier that got more reward than the mean of the others to the same prompt."""


def rloo_config(spec: JobSpec, settings: dict[str, Any]) -> RLOOConfig:
    """*settings* that all methods share, and RLOO's own."""
    return RLOOConfig(**online_settings(spec) | settings)
