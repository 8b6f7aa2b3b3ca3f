"""Scores of answers: what counts as the same, and that no text stops a run."""

import time
from decimal import Decimal

import pytest

from job.scores import (
    NEEDS_REFERENCE,
    SCORES,
    ScoreOptions,
    f1_by_class,
    number_in,
    pattern_fault,
    schema_fault,
    unusable,
)

PLAIN = ScoreOptions()


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 1,234.", "1234"),
        ("She pays $5", "5"),
        ("It falls to -3", "-3"),
        ("a loss of -$1,250.50", "-1250.5"),
        ("a loss of $-7", "-7"),
        ("\N{MINUS SIGN}4", "-4"),
        (".5", "0.50"),
        ("about 50%", "50"),
        ("\\boxed{42}", "42"),
        ("**18** apples", "18"),
        ("3-5", "5"),
        ("2e3 grams", "2000"),
        ("pages 1,2,3", "3"),
        ("$5/hour", "5"),
        ("12 eggs, of which x2 break", "12"),
        ("12345,678", "678"),
    ],
)
def test_a_number_is_read_as_people_write_it(text: str, number: str) -> None:
    assert number_in(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "none", "1/2", "3 / 4", "x2", "...", "-", "$"])
def test_what_is_no_number_is_not_read_as_one(text: str) -> None:
    assert number_in(text) is None


def test_behind_a_marker_the_first_number_counts() -> None:
    assert number_in("3 + 4 = 7\n#### 7 (not 8)", "####") == 7
    assert number_in("#### 1\n#### 2", "####") == 2
    assert number_in("the answer is 7", "####") is None


def test_numeric_answers_agree_by_value() -> None:
    score = SCORES["numeric_answer"]
    assert score("So it is $1,234.00.", "… #### 1234", PLAIN) == 1
    assert score("So it is 1,235.", "… #### 1234", PLAIN) == 0
    assert score("no idea", "7", PLAIN) == score("7", None, PLAIN) == score("none", "none", PLAIN) == 0
    assert score("7", "#### 7", ScoreOptions(marker="####")) == 0


def test_exact_is_exact_but_for_white_space_around() -> None:
    score = SCORES["exact_match"]
    assert score(" Paris\n", "Paris", PLAIN) == 1
    assert score("paris", "Paris", PLAIN) == score("Paris.", "Paris", PLAIN) == score("", None, PLAIN) == 0


def test_contains_looks_past_capitals() -> None:
    assert SCORES["contains"]("It is PARIS, of course", " Paris ", PLAIN) == 1
    assert SCORES["contains"]("It is Rome", "Paris", PLAIN) == 0


def test_a_pattern_is_searched_for() -> None:
    score, options = SCORES["regex"], ScoreOptions(pattern=r"^\d")
    assert score("7 apples", None, options) == 1
    assert score("apples", None, options) == 0


def test_a_pattern_that_backtracks_without_end_is_given_up() -> None:
    began = time.monotonic()
    assert SCORES["regex"]("a" * 60 + "b", None, ScoreOptions(pattern=r"^(a|aa)+$")) == 0
    assert time.monotonic() - began < 5


def test_a_bad_pattern_is_told() -> None:
    assert pattern_fault("(") == "missing ) at position 1"
    assert pattern_fault(r"^\d+$") is None


@pytest.mark.parametrize("text", ['{"a": [1, 2.5, null]}', " true ", '"x"', "1" * 5000])
def test_json_is_valid(text: str) -> None:
    assert SCORES["json_valid"](text, None, PLAIN) == 1


@pytest.mark.parametrize("text", ["", "{", "{'a': 1}", "NaN", '{"a": 1} so', "[" * 100_000])
def test_what_is_not_json_is_invalid(text: str) -> None:
    assert SCORES["json_valid"](text, None, PLAIN) == 0


def test_length_is_content_up_to_its_limit_and_falls_to_nothing() -> None:
    options = ScoreOptions(length=10)
    assert [SCORES["length"]("x" * n, None, options) for n in (0, 1, 10, 15, 20, 99)] == [0, 1, 1, 0.5, 0, 0]


def test_long_texts_take_no_time() -> None:
    began = time.monotonic()
    for text in ("1" * 20_000, "1," * 10_000, "-$" * 10_000, "1/" * 10_000, " " * 20_000, "1 " * 10_000):
        for name in SCORES:
            SCORES[name](text, text, ScoreOptions(pattern="x", schema={"type": "object"}))
    assert time.monotonic() - began < 5


def test_a_reference_that_cannot_be_met_is_told() -> None:
    marked = ScoreOptions(marker="####")
    assert unusable("numeric_answer", "seven", PLAIN) == "the reference answer has no number"
    assert unusable("numeric_answer", "7", marked) == "the reference answer has no number behind '####'"
    assert unusable("exact_match", None, PLAIN) == unusable("contains", " ", PLAIN) == "there is no reference answer"
    assert unusable("numeric_answer", "#### 7", marked) is None
    assert all(unusable(name, None, PLAIN) is None for name in SCORES if name not in NEEDS_REFERENCE)


def test_rouge_l_is_how_much_of_both_is_one_sequence_of_words() -> None:
    score = SCORES["rouge_l"]
    # The example of Lin 2004, section 3.2: "police killed the gunman" against two summaries.
    assert score("police kill the gunman", "police killed the gunman", PLAIN) == pytest.approx(3 / 4)
    assert score("the gunman kill police", "police killed the gunman", PLAIN) == pytest.approx(2 / 4)
    assert score("The  gunman!", "the gunman", PLAIN) == 1
    assert score("one two three four", "one three", PLAIN) == pytest.approx(2 * 2 / 6)
    assert score("", "", PLAIN) == score("word", None, PLAIN) == 0


SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


@pytest.mark.parametrize(
    ("answer", "allowed"),
    [('{"age": 7}', 1), ('{"age": "7"}', 0), ("{}", 0), ("age 7", 0), ('{"age": NaN}', 0), ("[" * 100_000, 0)],
)
def test_json_is_held_to_a_schema(answer: str, allowed: float) -> None:
    assert SCORES["json_schema"](answer, None, ScoreOptions(schema=SCHEMA)) == allowed


def test_a_schema_takes_no_answer_long_and_fetches_nothing() -> None:
    began = time.monotonic()
    slow = ScoreOptions(schema={"type": "string", "pattern": "^(a|aa)+$"})
    assert SCORES["json_schema"](f'"{"a" * 60}b"', None, slow) == 0
    assert SCORES["json_schema"]('"aa"', None, slow) == 1
    elsewhere = ScoreOptions(schema={"$ref": "http://localhost:9/schema.json"})
    assert SCORES["json_schema"]('"aa"', None, elsewhere) == 0
    assert time.monotonic() - began < 5


def test_a_bad_schema_is_told() -> None:
    assert schema_fault({"type": "objekt"}) == "'objekt' is not valid under any of the given schemas"
    assert schema_fault({"anyOf": [{"$ref": "http://a/b"}]}) == "it refers to http://a/b, which is not fetched"
    assert schema_fault(SCHEMA) is None


def test_an_answer_is_of_the_class_that_it_begins_with() -> None:
    score = SCORES["classification"]
    assert score(" Positive.\nBecause it shines", "positive", PLAIN) == 1
    assert score("not positive", "positive", PLAIN) == score("positively", "positive", PLAIN) == 0
    assert score("very good indeed", "Very good", PLAIN) == 1


def test_f1_of_each_class_is_by_hand_what_it_is() -> None:
    right = ["good", "good", "bad", "very good"]
    given = ["Good!", "bad", "bad, really", "very good"]
    # good: 1 of 1 given, 1 of 2 found; bad: 1 of 2 given, 1 of 1 found.
    assert f1_by_class(given, right) == {"bad": pytest.approx(2 / 3), "good": pytest.approx(2 / 3), "very good": 1}
    assert f1_by_class(["neither"], ["bad"]) == {"bad": 0}
