"""Kahneman-Tversky optimization with TRL's KTOTrainer (arXiv 2402.01306) on judged answers that were tokenized before.

How far the model is from its reference is estimated over one micro-batch of all processes, with each prompt before the
answer of another row. So the size of the micro-batch is part of the loss, upstream's as well as this one.
"""

from typing import Any

from trl import KTOConfig, KTOTrainer

from job.records import Plan
from job.spec import JobSpec
from job.train.preferences import PreferenceTrainer


class KtoTrainer(PreferenceTrainer, KTOTrainer):  # type: ignore[misc]
    """Makes good answers likelier and bad ones less likely, as compared with the reference."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        # Upstream pairs rows with their neighbours before training, and so must keep to one order; here a micro-batch
        # is paired when it is put together, and rows come in a new order in each epoch.
        self.args.train_sampling_strategy = "random"
        if self.calculate_KL:
            collator: Any = vars(self)["data_collator"]
            self.data_collator = Paired(collator)


class Paired:
    """*collator*, which gets each prompt also with the answer of the row before, as upstream pairs them (trl 1.16,
    KTOTrainer._prepare_dataset)."""

    def __init__(self, collator: Any) -> None:
        self._collator = collator

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        before = [examples[-1], *examples[:-1]]
        batch: dict[str, Any] = self._collator(
            [row | {"KL_completion_ids": other["completion_ids"]} for row, other in zip(examples, before, strict=True)]
        )
        return batch


def kto_config(spec: JobSpec, plan: Plan, settings: dict[str, Any]) -> KTOConfig:
    """*settings* that all methods share, and KTO's own."""
    (loss_type,) = spec.loss_type
    own = {
        "max_length": plan.max_length,
        "beta": spec.beta,
        "loss_type": loss_type,
        "desirable_weight": spec.desirable_weight,
        "undesirable_weight": spec.undesirable_weight,
        "train_sampling_strategy": "sequential",  # upstream takes no other; see KtoTrainer
    }
    return KTOConfig(**own | settings)
