"""Settings of how answers to held-out rows are judged: what suits the rows, and what is refused."""

import pytest

from job.answers import JUDGING, refuse_unusable, scored, scorers, shortfall
from job.environment import load_spec
from job.errors import BadData, BadSpec
from job.records import Answer, HeldOut, HeldOutRow
from job.spec import JobSpec

GOOD = {"JOB_MODEL": "org/base", "JOB_DATASET_URI": "org/rows", "JOB_OUTPUT_URI": "/out", "JOB_EVAL_FRACTION": "0.1"}
ASKED = GOOD | {"JOB_EVAL_GENERATE": "100"}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"JOB_EVAL_FRACTION": ""}, "JOB_EVAL_GENERATE is set without rows to evaluate on; set JOB_EVAL_FRACTION=0.05"),
        ({"JOB_EVAL_SCORERS": "rogue_l"}, "JOB_EVAL_SCORERS: 'rogue_l' is no scorer; did you mean rouge_l?"),
        ({"JOB_MIN_SCORE": "exact=0.5"}, "JOB_MIN_SCORE: 'exact' is no scorer; did you mean exact_match?"),
        ({"JOB_EVAL_SCORERS": "regex"}, "The scorer regex needs JOB_EVAL_PATTERN, such as JOB_EVAL_PATTERN=^[0-9]+$"),
        ({"JOB_EVAL_PATTERN": "^a"}, "JOB_EVAL_PATTERN is for the scorer regex, which JOB_EVAL_SCORERS does not have"),
        ({"JOB_EVAL_SCORERS": "regex", "JOB_EVAL_PATTERN": "("}, "not a regular expression: missing ) at position 1"),
        ({"JOB_EVAL_SCORERS": "json_schema"}, "The scorer json_schema needs JOB_EVAL_SCHEMA"),
        (
            {"JOB_EVAL_SCORERS": "json_schema", "JOB_EVAL_SCHEMA": '{"type": "objekt"}'},
            "not a JSON schema: 'objekt' is not valid",
        ),
        (
            {"JOB_EVAL_SCORERS": "contains", "JOB_MIN_SCORE": "exact_match=0.5"},
            "JOB_MIN_SCORE=exact_match asks for a score that JOB_EVAL_SCORERS does not have",
        ),
        ({"JOB_MIN_SCORE": "contains=0.5", "JOB_EVAL_GENERATE": ""}, "set JOB_EVAL_GENERATE=100 too"),
        ({"JOB_MIN_SCORE": "contains=1.5"}, "JOB_MIN_SCORE=contains=1.5: expected less than or equal to 1"),
        ({"JOB_METHOD": "reward"}, "JOB_EVAL_GENERATE is nothing for JOB_METHOD=reward, whose model gives no answers"),
        (
            {"JOB_EVAL_SAMPLES": "2", "JOB_STRATEGY": "fsdp"},
            "JOB_EVAL_SAMPLES are answered by one process during training, which has but a part of a shared model; "
            "set JOB_STRATEGY=auto",
        ),
        ({"JOB_FORMAT": "text"}, "set JOB_RESPONSE_TEMPLATE too"),
    ],
)
def test_what_cannot_be_judged_is_refused_at_the_start(settings, reason):
    with pytest.raises(BadSpec) as refused:
        load_spec({name: value for name, value in (ASKED | settings).items() if value})
    assert reason in str(refused.value)


def test_scorers_suit_the_references_where_none_are_asked_for():
    left = load_spec(ASKED)
    assert scorers(left, ["2 + 2 = 4\n#### 4", None]) == ["numeric_answer"]
    assert scorers(left, ["four", None]) == ["exact_match", "rouge_l"]
    bounded = load_spec(ASKED | {"JOB_MIN_SCORE": "contains=0.3"})
    assert scorers(bounded, ["#### 4"]) == ["numeric_answer", "contains"]
    assert scorers(load_spec(ASKED | {"JOB_EVAL_SCORERS": "length"}), ["#### 4"]) == ["length"]


def test_a_trained_adapter_can_be_judged_anew_as_the_same_run():
    assert set(JUDGING) < set(JobSpec.model_fields)
    anew = load_spec(ASKED | {"JOB_MIN_SCORE": "rouge_l=0.3", "JOB_EVAL_SCORERS": "rouge_l", "JOB_EVAL_GENERATE": "8"})
    assert anew.fingerprint == load_spec(GOOD).fingerprint


def test_answers_are_scored_where_there_is_something_to_compare_with_and_what_falls_short_is_told_with_figures():
    spec = load_spec(ASKED | {"JOB_EVAL_SCORERS": "classification,length", "JOB_MIN_SCORE": "classification=0.9"})
    rows = [("good", "bad", "good"), ("bad", "bad", "good"), (None, "", "x")]
    answers = [Answer(prompt="p", reference=right, base=base, tuned=tuned) for right, base, tuned in rows]

    scores, judged = scored(spec, answers)

    labels, length = scores
    assert (labels.rows, labels.base, labels.tuned, labels.f1) == (
        2,
        0.5,
        0.5,
        {"bad": 0, "good": pytest.approx(2 / 3)},
    )
    assert (length.rows, length.base, length.tuned, length.f1) == (3, pytest.approx(2 / 3), 1, None)
    assert [set(answer.scores) for answer in judged] == [{"classification", "length"}] * 2 + [{"length"}]
    assert shortfall(spec, scores) == (
        "classification is 0.5 over 2 held-out answers (the base model's: 0.5), below JOB_MIN_SCORE=classification=0.9."
    )
    assert shortfall(load_spec(ASKED), scores) is None


def test_a_scorer_that_could_judge_no_row_is_refused_before_training():
    held_out = HeldOut(rows=(HeldOutRow(prompt="p", input_ids=(1,), reference=None),))
    with pytest.raises(BadData, match=r"The scorer contains can judge none of the 1 held-out rows, as there is no"):
        refuse_unusable(load_spec(ASKED | {"JOB_EVAL_SCORERS": "contains"}), held_out)
    refuse_unusable(load_spec(ASKED | {"JOB_EVAL_SCORERS": "json_valid"}), held_out)
