"""What a job rewards: the settings as weights by name, and what the scores are told."""

from collections.abc import Iterator
from typing import get_args

from job.scores import ScoreOptions
from job.settings import Settings
from job.settings.online import REWARD_MODEL, OnlineSettings, RewardName

# The setting that only one reward needs or uses.
_OF_REWARD = {"regex": "reward_pattern", "numeric_answer": "reward_marker"}


def rewarded(spec: OnlineSettings) -> dict[str, float]:
    """The weight of each reward, by name. A reward model without a weight has 1."""
    weights = {str(name): weight for name, weight in spec.rewards.items()}
    if spec.reward_model and REWARD_MODEL not in weights:
        weights[REWARD_MODEL] = 1.0
    return weights


def score_options(spec: OnlineSettings) -> ScoreOptions:
    """What the named rewards are told."""
    return ScoreOptions(
        pattern=spec.reward_pattern,
        marker=spec.reward_marker,
        length=spec.reward_length or ScoreOptions.length,
    )


def of_rewards(spec: Settings) -> Iterator[str]:
    """What contradicts itself in the rewards of *spec* and in its steps, a sentence each without its full stop."""
    yield from _of_names(spec)
    size, group = spec.global_batch_size, spec.num_generations or 1
    if size % group:
        yield (
            f"JOB_GLOBAL_BATCH_SIZE={size} answers are no whole number of prompts with JOB_NUM_GENERATIONS={group} "
            f"each; set it to {-(-size // group) * group}"
        )
    room = spec.max_length - (spec.max_completion_length or 0)
    if room < 1:
        yield (
            f"JOB_MAX_LENGTH={spec.max_length} leaves no room for a prompt beside "
            f"JOB_MAX_COMPLETION_LENGTH={spec.max_completion_length}; raise it, or lower the other"
        )
    if spec.cpu_offload is True:
        yield f"JOB_CPU_OFFLOAD=true is done by fsdp, which JOB_METHOD={spec.method} does not work with; leave it unset"


def _of_names(spec: Settings) -> Iterator[str]:
    if not rewarded(spec):
        named = [name for name in get_args(RewardName) if name != REWARD_MODEL]
        yield (
            f"JOB_METHOD={spec.method} has nothing to reward; set JOB_REWARDS to one or more of {', '.join(named)}, "
            "such as JOB_REWARDS=numeric_answer, or JOB_REWARD_MODEL"
        )
    elif not any(rewarded(spec).values()):
        yield "JOB_REWARDS gives every reward the weight 0, so there is nothing to learn; give one another weight"
    if REWARD_MODEL in spec.rewards and not spec.reward_model:
        yield "JOB_REWARDS has a weight for reward_model, but JOB_REWARD_MODEL is not set; set it too"
    if "regex" in spec.rewards and not spec.reward_pattern:
        yield "JOB_REWARDS=regex needs JOB_REWARD_PATTERN, such as ^[0-9]+$"
    for name, setting in _OF_REWARD.items():
        if getattr(spec, setting) and name not in spec.rewards:
            yield f"JOB_{setting.upper()} is for the reward {name}, which JOB_REWARDS does not have; add it"
