"""What is rewarded, for the methods that learn from the model's own answers: rloo and grpo."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from job.kinds import ModelUri, Pattern
from job.methods import told
from job.settings.setting import setting

# The scores of `job.scores` that need nothing but an answer and a reference, and the trained model.
RewardName = Literal[
    "exact_match", "contains", "numeric_answer", "regex", "json_valid", "length", "reward_model"
]  # fmt: skip
REWARD_MODEL = "reward_model"

# A weight of 0 is no reward; one below punishes.
RewardWeight = Annotated[float, Field(ge=-100, le=100)]


class OnlineSettings(BaseModel):
    """What is rewarded, and how many answers are compared."""

    rewards: dict[RewardName, RewardWeight] = setting(
        {},
        doc="For `rloo` and `grpo`: what an answer is rewarded for, each with its weight: "
        "`numeric_answer=1,length=0.2`. Each gives 0 to 1. `exact_match`: the answer is the row's; `contains`: it "
        "contains it; `numeric_answer`: it ends in the same number; `regex`: JOB_REWARD_PATTERN is found in it; "
        "`json_valid`: it is JSON; `length`: it is no longer than JOB_REWARD_LENGTH. `reward_model` is the weight of "
        "JOB_REWARD_MODEL, whose scores have no bounds.",
        why="what is wanted cannot be guessed; `reward_model=1` with JOB_REWARD_MODEL",
    )
    reward_model: ModelUri | None = setting(
        None,
        doc="For `rloo` and `grpo`: a model that scores answers, as `JOB_METHOD=reward` leaves it (the output's "
        "`adapter` folder, or its repository on the Hub), or one for sequence classification with one label. Written "
        "as JOB_MODEL is.",
        why="the named rewards alone",
    )
    reward_pattern: Pattern | None = setting(
        None, doc="For the reward `regex`: what to find in an answer, in the syntax of Python's `regex` package."
    )
    reward_marker: str | None = setting(
        None,
        doc="For the reward `numeric_answer`: what stands before the number, such as `####`; an answer without it "
        "gets 0.",
        why="the last number of the answer counts",
    )
    reward_length: int | None = setting(
        None,
        doc="For the reward `length`: characters up to which an answer gets 1; from there it falls, to 0 at twice as "
        "many.",
        why=told("reward_length"),
        ge=1,
    )
    num_generations: int | None = setting(
        None,
        doc="For `rloo` and `grpo`: answers to each prompt that are compared with one another. JOB_GLOBAL_BATCH_SIZE "
        "counts answers, so that a step has JOB_GLOBAL_BATCH_SIZE / JOB_NUM_GENERATIONS prompts.",
        why=told("num_generations"),
        ge=2,
    )
    max_completion_length: int | None = setting(
        None,
        doc="For `rloo` and `grpo`: tokens of the longest answer; longer ones are cut off there. JOB_MAX_LENGTH is "
        "that of prompt and answer together.",
        why=told("max_completion_length"),
        ge=1,
    )
    temperature: float | None = setting(
        None,
        doc="For `rloo` and `grpo`: how freely answers are drawn.",
        why=told("temperature"),
        gt=0,
    )
