"""What rloo and grpo are told to reward, and what is refused of it before anything is fetched."""

import pytest

from job.environment import load_spec
from job.errors import BadSpec
from job.rewards import rewarded, score_options
from job.scores import SCORES, ScoreOptions
from job.settings.online import REWARD_MODEL, RewardName

GOOD = {"JOB_MODEL": "org/base", "JOB_DATASET_URI": "org/rows", "JOB_OUTPUT_URI": "/out", "JOB_METHOD": "grpo"}


def refusal(**settings: str) -> str:
    with pytest.raises(BadSpec) as refused:
        load_spec(GOOD | settings)
    return str(refused.value)


def test_rewards_are_names_with_weights_and_a_lone_name_has_1():
    spec = load_spec(GOOD | {"JOB_REWARDS": "numeric_answer,length=0.2", "JOB_REWARD_MARKER": "####"})

    assert rewarded(spec) == {"numeric_answer": 1.0, "length": 0.2}
    assert score_options(spec) == ScoreOptions(marker="####", length=500)


def test_a_reward_model_has_a_weight_of_1_beside_others_unless_it_is_given_one():
    model = {"JOB_REWARD_MODEL": "org/judge"}

    assert rewarded(load_spec(GOOD | model)) == {"reward_model": 1.0}
    assert rewarded(load_spec(GOOD | model | {"JOB_REWARDS": "json_valid,reward_model=0.1"})) == {
        "json_valid": 1.0,
        "reward_model": 0.1,
    }


def test_every_score_of_an_answer_can_be_rewarded_unless_it_needs_more_settings():
    names = set(RewardName.__args__)

    assert names - {REWARD_MODEL} <= set(SCORES)


def test_ppo_is_answered_with_what_replaces_it():
    said = refusal(JOB_METHOD="ppo")

    assert "TRL has no PPO trainer any more" in said
    assert "JOB_METHOD=reward" in said
    assert "JOB_METHOD=rloo and that JOB_REWARD_MODEL" in said


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "JOB_METHOD=grpo has nothing to reward"),
        ({"JOB_REWARDS": "regex=0"}, "every reward the weight 0"),
        ({"JOB_REWARDS": "regex"}, "needs JOB_REWARD_PATTERN"),
        ({"JOB_REWARDS": "regex", "JOB_REWARD_PATTERN": "("}, "not a regular expression: missing )"),
        ({"JOB_REWARDS": "exact"}, "JOB_REWARDS"),
        ({"JOB_REWARDS": "reward_model"}, "JOB_REWARD_MODEL is not set"),
        ({"JOB_REWARDS": "length", "JOB_REWARD_MARKER": "####"}, "JOB_REWARD_MARKER is for the reward numeric_answer"),
        ({"JOB_REWARDS": "length", "JOB_NUM_GENERATIONS": "6"}, "JOB_GLOBAL_BATCH_SIZE=16 answers are no whole number"),
        ({"JOB_REWARDS": "length", "JOB_NUM_GENERATIONS": "1"}, "JOB_NUM_GENERATIONS=1"),
        ({"JOB_REWARDS": "length", "JOB_MAX_LENGTH": "200"}, "leaves no room for a prompt"),
        (
            {"JOB_REWARDS": "length", "JOB_STRATEGY": "fsdp"},
            "cannot be trained: answers are drawn",
        ),
        ({"JOB_REWARDS": "length", "JOB_PACKING": "true"}, "JOB_PACKING=true is not for JOB_METHOD=grpo"),
        ({"JOB_REWARDS": "length", "JOB_FORMAT": "preference"}, "JOB_FORMAT=preference is nothing that"),
        ({"JOB_REWARDS": "length", "JOB_TRAINER_ARGS": '{"use_vllm": true}'}, "'use_vllm' is set by the job itself"),
        ({"JOB_REWARDS": "length", "JOB_TRAINER_ARGS": '{"reward_weights": [1]}'}, "set JOB_REWARDS"),
        ({"JOB_REWARDS": "length", "JOB_LOSS_TYPE": "dappo"}, "did you mean dapo?"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings, reason):
    assert reason in refusal(**settings)


@pytest.mark.parametrize("name", ["REWARDS", "REWARD_MODEL", "NUM_GENERATIONS", "MAX_COMPLETION_LENGTH", "TEMPERATURE"])
def test_settings_of_drawn_answers_are_refused_with_another_method(name):
    values = {"REWARDS": "length", "REWARD_MODEL": "org/judge"}
    said = refusal(JOB_METHOD="sft", **{f"JOB_{name}": values.get(name, "2")})

    assert f"JOB_{name} is not for JOB_METHOD=sft; rloo and grpo have it" in said
