"""From variables to a spec: the grammar, the suggestions, and every problem at once."""

import json

import pytest

from job.environment import load_spec, platform_names
from job.errors import BadSpec

GOOD = {"JOB_MODEL": "org/base", "JOB_DATASET_URI": "s3://bucket/rows.jsonl", "JOB_OUTPUT_URI": "s3://bucket/out"}


def refusal(**settings: str) -> str:
    with pytest.raises(BadSpec) as refused:
        load_spec(GOOD | settings)
    return str(refused.value)


def test_three_variables_are_enough():
    spec = load_spec(GOOD)

    assert (spec.model, spec.output_uri, spec.lora_r) == ("org/base", ("s3://bucket/out",), 16)


def test_an_empty_environment_names_every_missing_variable():
    with pytest.raises(BadSpec) as refused:
        load_spec({})

    assert all(f"{name} is not set" in str(refused.value) for name in GOOD)


def test_a_misspelt_variable_is_refused_with_a_suggestion():
    assert "JOB_LEARING_RATE is not a setting. Did you mean JOB_LEARNING_RATE?" in refusal(JOB_LEARING_RATE="1e-4")


def test_all_problems_are_reported_at_once():
    message = refusal(JOB_LORA_RANK="8", JOB_LEARNING_RATE="fast", JOB_NUM_TRAIN_EPOCHS="0", JOB_PACKING="maybe")

    for part in (
        "4 settings",
        "JOB_LORA_RANK",
        "JOB_LEARNING_RATE=fast",
        "JOB_NUM_TRAIN_EPOCHS=0",
        "JOB_PACKING=maybe",
    ):
        assert part in message


@pytest.mark.parametrize(
    "name", ["JOB_COMPLETION_INDEX", "JOB_ID", "JOB_NAME", "JOB_WEB_PORT", "JOB_DB_PORT_80_TCP_ADDR"]
)
def test_names_that_platforms_inject_are_ignored(name):
    env = GOOD | {name: "7"}

    assert load_spec(env) == load_spec(GOOD)
    assert platform_names(env) == [name]


def test_empty_means_unset():
    assert load_spec(GOOD | {"JOB_LORA_R": "", "JOB_SEED": "  "}) == load_spec(GOOD)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("False", False), ("0", False)])
def test_booleans_are_true_false_1_or_0(text, value):
    assert load_spec(GOOD | {"JOB_PACKING": text}).packing is value


@pytest.mark.parametrize("text", ["yes", "on", "t", "no"])
def test_other_words_are_no_booleans(text):
    assert f"JOB_DEBUG={text}: expected true, false, 1 or 0" in refusal(JOB_DEBUG=text)


def test_lists_are_split_by_commas_and_a_comma_inside_a_uri_is_escaped():
    spec = load_spec(GOOD | {"JOB_OUTPUT_URI": "s3://bucket/a%2Cb, /data/out"})

    assert spec.output_uri == ("s3://bucket/a,b", "/data/out")


def test_columns_are_a_map():
    spec = load_spec(GOOD | {"JOB_COLUMNS": "prompt=question, completion=answer"})

    assert spec.columns == {"prompt": "question", "completion": "answer"}


@pytest.mark.parametrize("text", ["prompt", "prompt=", "=question", "prompt=question,"])
def test_a_broken_map_is_refused_with_the_form(text):
    assert "prompt=question,completion=answer" in refusal(JOB_COLUMNS=text)


def test_quotes_that_an_env_file_leaves_are_refused_by_name():
    assert "remove them" in refusal(JOB_MODEL='"org/base"')


def test_trainer_args_pass_through():
    spec = load_spec(GOOD | {"JOB_TRAINER_ARGS": '{"adam_beta2": 0.95}'})

    assert spec.trainer_args == {"adam_beta2": 0.95}


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ("{", "not valid JSON"),
        ("[1]", "expected a JSON object"),
        ('{"output_dir": "/x"}', "set by the job itself"),
        ('{"hub_token": "x"}', "set by the job itself"),
        ('{"learning_rate": 1}', "set JOB_LEARNING_RATE"),
        ('{"gradient_accumulation_steps": 4}', "set JOB_GLOBAL_BATCH_SIZE"),
        ('{"max_seq_length": 4}', "not a field of TRL's SFTConfig"),
    ],
)
def test_trainer_args_that_the_job_owns_or_upstream_lacks_are_refused(args, reason):
    assert reason in refusal(JOB_TRAINER_ARGS=args)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"JOB_EVAL_FRACTION": "0.1", "JOB_EVAL_DATASET_URI": "/data/x.jsonl"}, "keep one of them"),
        ({"JOB_EVAL_STEPS": "5"}, "JOB_EVAL_FRACTION"),
        ({"JOB_STRATEGY": "single", "JOB_NUM_PROCESSES": "2"}, "use ddp"),
        ({"JOB_NUM_PROCESSES": "3", "JOB_GLOBAL_BATCH_SIZE": "16"}, "make it a multiple"),
        ({"JOB_OUTPUT_URI": "/a,/a"}, "same place twice"),
        ({"JOB_LEARNING_RATE": "nan"}, "JOB_LEARNING_RATE=nan"),
        ({"JOB_MODEL": "base"}, "starts with '/' or './'"),
    ],
)
def test_contradictions_are_refused_with_the_way_out(settings, reason):
    assert reason in refusal(**settings)


def test_all_contradictions_are_told_at_once():
    said = refusal(JOB_EVAL_STEPS="5", JOB_MAX_COST="3", JOB_STRATEGY="single", JOB_NUM_PROCESSES="2")

    assert said.startswith("3 settings are wrong:\n")
    assert all(name in said for name in ("JOB_EVAL_STEPS", "JOB_MAX_COST", "JOB_STRATEGY=single"))


def test_the_environment_overrides_the_spec_file():
    spec = load_spec(GOOD | {"JOB_LORA_R": "8"}, {"lora_r": 64, "lora_alpha": 128, "columns": {"text": "body"}})

    assert (spec.lora_r, spec.lora_alpha, spec.columns) == (8, 128, {"text": "body"})


def test_an_unknown_key_in_the_spec_file_is_refused_with_a_suggestion():
    with pytest.raises(BadSpec, match=r"JOB_SPEC_URI: lora_rank is not a setting\. Did you mean lora_r"):
        load_spec(GOOD, {"lora_rank": 8})


def test_a_spec_survives_json():
    spec = load_spec(GOOD | {"JOB_COLUMNS": "text=body", "JOB_TARGET_MODULES": "q_proj,v_proj"})

    assert type(spec).model_validate(json.loads(spec.model_dump_json())) == spec


def test_only_settings_that_change_the_numbers_enter_the_fingerprint():
    same = load_spec(
        GOOD | {"JOB_NUM_PROCESSES": "2", "JOB_LOG_LEVEL": "debug", "JOB_WORK_DIR": "/x", "JOB_GRACE_S": "1"}
    )

    assert same.fingerprint == load_spec(GOOD).fingerprint
    assert load_spec(GOOD | {"JOB_SEED": "1"}).fingerprint != same.fingerprint


def test_a_choice_that_is_not_offered_is_one_problem_with_all_that_are():
    assert refusal(JOB_QUANTIZATION="4bit") == "JOB_QUANTIZATION=4bit: expected 'auto', 'none', 'int8' or 'nf4'."


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("JOB_LORA_R", "sixteen", "an integer"),
        ("JOB_LORA_R", "1.5", "an integer"),
        ("JOB_LEARNING_RATE", "fast", "a number"),
        ("JOB_HANG_TIMEOUT_S", "soon", "a number or 'auto'"),
        ("JOB_SEED", "9" * 5000, "a smaller integer"),
    ],
)
def test_a_number_that_is_none_is_told_in_plain_words(name, value, expected):
    assert refusal(**{name: value}) == f"{name}={value}: expected {expected}."
