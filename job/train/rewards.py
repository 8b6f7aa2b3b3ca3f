"""The rewards of a job as the functions that TRL calls with the answers of a step."""

from collections.abc import Callable, Sequence
from typing import Any

from job.rewards import rewarded, score_options
from job.scores import SCORES, Score, ScoreOptions
from job.spec import JobSpec

Reward = Callable[..., list[float]]


def reward_settings(spec: JobSpec) -> dict[str, Any]:
    """What the trainers of rloo and grpo are given besides what all are."""
    options = score_options(spec)
    return {"reward_funcs": [_named(name, SCORES[name], options) for name in rewarded(spec)]}


def _named(name: str, score: Score, options: ScoreOptions) -> Reward:
    def reward(completions: Sequence[str], reference: Sequence[str | None], **_: Any) -> list[float]:
        return [score(answer, right, options) for answer, right in zip(completions, reference, strict=True)]

    reward.__name__ = name  # by which TRL logs it
    return reward
