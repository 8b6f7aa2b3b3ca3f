"""Settings that belong to a method: their defaults, and what is refused where they do not belong."""

import pytest

from job.environment import load_spec
from job.errors import BadSpec
from job.methods import METHODS

GOOD = {"JOB_MODEL": "org/base", "JOB_DATASET_URI": "org/rows", "JOB_OUTPUT_URI": "/out"}


def refusal(**settings: str) -> str:
    with pytest.raises(BadSpec) as refused:
        load_spec(GOOD | settings)
    return str(refused.value)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_brings_its_learning_rate_and_its_own_settings(method):
    rewards = {"JOB_REWARDS": "length"} if METHODS[method].draws else {}
    spec = load_spec(GOOD | {"JOB_METHOD": method} | rewards)

    assert spec.learning_rate == METHODS[method].learning_rate
    assert spec.loss_type == METHODS[method].settings.get("loss_type", ())
    assert spec.beta == METHODS[method].settings.get("beta")


def test_what_is_set_stays():
    spec = load_spec(GOOD | {"JOB_METHOD": "dpo", "JOB_LEARNING_RATE": "3e-6", "JOB_LOSS_TYPE": "ipo,sft"})

    assert (spec.learning_rate, spec.loss_type, spec.beta) == (3e-6, ("ipo", "sft"), 0.1)


def test_a_default_that_is_set_is_the_same_run():
    left, said = ({"JOB_METHOD": "dpo"} | more for more in ({}, {"JOB_BETA": "0.1", "JOB_LEARNING_RATE": "1e-5"}))

    assert load_spec(GOOD | left).fingerprint == load_spec(GOOD | said).fingerprint


def test_all_weights_take_a_twentieth_of_the_rate_of_adapters():
    assert METHODS["sft"].defaults("full")["learning_rate"] == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"JOB_BETA": "0.2"}, "JOB_BETA is not for JOB_METHOD=sft; dpo"),
        (
            {"JOB_METHOD": "dpo", "JOB_DESIRABLE_WEIGHT": "2"},
            "JOB_DESIRABLE_WEIGHT is not for JOB_METHOD=dpo; kto have",
        ),
        ({"JOB_METHOD": "reward", "JOB_LOSS_TYPE": "sigmoid"}, "JOB_LOSS_TYPE is not for JOB_METHOD=reward"),
        ({"JOB_METHOD": "dpo", "JOB_PACKING": "true"}, "JOB_PACKING=true is not for JOB_METHOD=dpo"),
        ({"JOB_METHOD": "kto", "JOB_RESPONSE_TEMPLATE": "###"}, "JOB_RESPONSE_TEMPLATE is for rows of text"),
        ({"JOB_METHOD": "dpo", "JOB_FORMAT": "messages"}, "JOB_FORMAT=messages is nothing that JOB_METHOD=dpo learns"),
        ({"JOB_METHOD": "dpo", "JOB_LORA_DROPOUT": "0.1"}, 'JOB_TRAINER_ARGS={"disable_dropout": false}'),
        ({"JOB_METHOD": "dpo", "JOB_LOSS_TYPE": "sigmoit"}, "did you mean sigmoid?"),
        ({"JOB_METHOD": "kto", "JOB_LOSS_TYPE": "kto,apo_zero_unpaired"}, "has one loss; name one"),
        ({"JOB_METHOD": "dpo", "JOB_LOSS_TYPE": "exo_pair"}, '{"label_smoothing": 0.001}'),
        ({"JOB_METHOD": "dpo", "JOB_BETA": "0"}, "leaves nothing to learn from pairs"),
        ({"JOB_METHOD": "dpo", "JOB_TRAINER_ARGS": '{"loss_weights": [1, 2]}'}, '"loss_weights" has 2 numbers for 1'),
        ({"JOB_METHOD": "dpo", "JOB_TRAINER_ARGS": '{"ld_alfa": 1}'}, "TRL's DPOConfig; did you mean 'ld_alpha'?"),
        ({"JOB_METHOD": "dpo", "JOB_TRAINER_ARGS": '{"sync_ref_model": true}'}, "set by the job itself"),
        ({"JOB_METHOD": "reward", "JOB_TRAINER_ARGS": '{"beta": 1}'}, "set JOB_BETA"),
        ({"JOB_METHOD": "sft", "JOB_TRAINER_ARGS": '{"ld_alpha": 1}'}, "not a field of TRL's SFTConfig"),
        ({"JOB_METHOD": "dop"}, "'sft', 'dpo', 'kto', 'reward', 'rloo' or 'grpo'"),
    ],
)
def test_what_does_not_belong_to_the_method_is_refused(settings, reason):
    assert reason in refusal(**settings)
