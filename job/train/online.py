"""What RLOO and GRPO share: prompts as they were prepared, rewards by name, the same prompts in a resumed run."""

from collections.abc import Iterator
from typing import Any

import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch.utils.data import Sampler
from trl.trainer.utils import RepeatSampler

from job.rewards import rewarded
from job.spec import JobSpec
from job.train.health import Health, RewardHealth
from job.train.trainer import AdapterTrainer


class OnlineTrainer(AdapterTrainer):
    """Learns from answers that it draws itself. To stand before one of TRL's: ``class GrpoTrainer(OnlineTrainer,
    GRPOTrainer)``.

    A step draws the answers that it learns from, so a checkpoint, which is written between steps, finds none in hand.
    """

    best_by, more_is_better = "eval_reward", True
    # Upstream leaves out what does not fill a last step; the next epoch is drawn anew.
    fills_rounds = False

    def trial_batch(self) -> dict[str, torch.Tensor]:
        """A micro-batch of the longest prompts with answers as long as may be. What drawing them takes is not tried: it
        would last as long as a step."""
        prompts = pc.list_value_length(self.train_dataset.data.column("input_ids"))
        shape = self.plan.per_device_train_batch_size, pc.max(prompts).as_py() + self.max_completion_length
        ids = torch.full(shape, self.train_dataset[0]["input_ids"][0], device=self.args.device)
        mask = torch.ones_like(ids)
        mask[0, 0] = 0  # prompts are padded, and attention to a mask takes more
        return {"input_ids": ids, "attention_mask": mask, "labels": ids}

    def make_health(self) -> Health:
        return RewardHealth()

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int]:
        sampler: RepeatSampler = super()._get_train_sampler(train_dataset)
        return SameInEachEpoch(sampler)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Upstream's, with the prompts' tokens at hand."""
        self._prompt_ids = [row["input_ids"] for row in inputs]
        outputs: dict[str, Any] = super()._generate_and_score_completions(inputs)
        return outputs

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """As preparation rendered and tokenized them: with the tools, the variables and the time that it told the chat
        template."""
        return [list(ids) for ids in self._prompt_ids], None, {}


class SameInEachEpoch(Sampler[int]):
    """Upstream's order of prompts, also in an epoch that a resumed run begins with: upstream would go through the first
    one's again."""

    def __init__(self, sampler: RepeatSampler) -> None:
        self._sampler, self._epoch = sampler, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        sampler = self._sampler
        sampler.generator.manual_seed(sampler.seed)
        for _ in range(self._epoch):
            torch.randperm(sampler.num_samples, generator=sampler.generator)
        yield from sampler

    def __len__(self) -> int:
        return len(self._sampler)


def online_settings(spec: JobSpec) -> dict[str, Any]:
    """What the configurations of both methods are told besides the shared settings."""
    return {
        "beta": spec.beta,
        "num_generations": spec.num_generations,
        # One answer to each prompt shows the mean reward; nothing is learned from it that others would be needed for.
        "num_generations_eval": 1,
        "max_completion_length": spec.max_completion_length,
        "temperature": spec.temperature,
        "reward_weights": list(rewarded(spec).values()),
        "disable_dropout": True,  # else answers would be drawn from another model than the one that is trained
    }
