"""Group relative policy optimization with TRL's GRPOTrainer (DeepSeekMath, arXiv 2402.03300)."""

from typing import Any

from trl import GRPOConfig, GRPOTrainer

from job.spec import JobSpec
from job.train.online import OnlineTrainer, online_settings


class GrpoTrainer(OnlineTrainer, GRPOTrainer):  # type: ignore[misc]
    """Makes answers likelier that got more reward than others to the same prompt, in standard deviations of these."""


def grpo_config(spec: JobSpec, settings: dict[str, Any]) -> GRPOConfig:
    """*settings* that all methods share, and GRPO's own."""
    (loss_type,) = spec.loss_type
    return GRPOConfig(**online_settings(spec) | {"loss_type": loss_type} | settings)
