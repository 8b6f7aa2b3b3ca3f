"""The rewards of a job as the functions that TRL calls with the answers of a step."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from job.records import Plan, RewardModel
from job.rewards import rewarded, score_options
from job.scores import SCORES, Score, ScoreOptions
from job.settings.online import REWARD_MODEL
from job.spec import JobSpec

Reward = Callable[..., list[float]]


def reward_settings(spec: JobSpec, plan: Plan, found: RewardModel | None, device: torch.device) -> dict[str, Any]:
    """What the trainers of rloo and grpo are given besides what all are. *found* is the reward model, if there is one,
    and goes to *device*."""
    options = score_options(spec)
    functions: dict[str, Reward] = {
        name: _named(name, SCORES[name], options) for name in rewarded(spec) if name in SCORES
    }
    if found:
        from job.train.reward_model import RewardJudge

        functions[REWARD_MODEL] = RewardJudge(found, plan, device)
    return {"reward_funcs": [functions[name] for name in rewarded(spec)]}


def _named(name: str, score: Score, options: ScoreOptions) -> Reward:
    def reward(completions: Sequence[str], reference: Sequence[str | None], **_: Any) -> list[float]:
        return [score(answer, right, options) for answer, right in zip(completions, reference, strict=True)]

    reward.__name__ = name  # by which TRL logs it
    return reward
