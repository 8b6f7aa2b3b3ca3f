"""Direct preference optimization with TRL's DPOTrainer (arXiv 2305.18290) on pairs that were tokenized before.

The reference is the base model with the adapter switched off, so there is no second model in memory.
"""

from typing import Any

from trl import DPOConfig, DPOTrainer

from job.records import Plan
from job.spec import JobSpec
from job.train.preferences import PreferenceTrainer


class DpoTrainer(PreferenceTrainer, DPOTrainer):  # type: ignore[misc]
    """Makes the chosen answer likelier than the rejected one, as compared with the reference."""


def dpo_config(spec: JobSpec, plan: Plan, settings: dict[str, Any]) -> DPOConfig:
    """*settings* that all methods share, and DPO's own."""
    own = {"max_length": plan.max_length, "beta": spec.beta, "loss_type": list(spec.loss_type)}
    return DPOConfig(**own | settings)
