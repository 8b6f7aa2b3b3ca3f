"""The data gate: what it counts, what it refuses, and what overrides it."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from job.errors import BadData
from job.prepare.batch import Batch, SplitBatch
from job.prepare.formats import Chat, Reading, Text, oddities, recognise
from job.prepare.gate import Gate
from job.prepare.preferences import to_example
from job.prepare.read import Row
from job.prepare.story import prepare
from job.prepare.turns import Taught
from job.records import GateSettings, Prepared, SplitStats
from tests.unit.conftest import CHATML, MakeTokenizer
from tests.unit.test_prepare import reading, task

STRICT = GateSettings(bad_rows="fail", max_bad_fraction=0.01, allow=())


def lenient(fraction: float, *allow: str) -> GateSettings:
    return GateSettings(bad_rows="skip", max_bad_fraction=fraction, allow=allow)


def rows_with_bad(good: int, bad: int) -> str:
    return "".join(json.dumps({"text": f"row {index}"}) + "\n" for index in range(good)) + '{"text": 1}\n' * bad


def prepared(tmp_path: Path, tokenizer: Path, content: str, gate: GateSettings, **settings: object) -> Prepared:
    return prepare(task(tmp_path, tokenizer, content, gate=gate, **settings), tmp_path)


def test_a_bad_row_fails_the_job_by_default(tmp_path, make_tokenizer: MakeTokenizer):
    with pytest.raises(BadData, match=r"rows\.jsonl:1000: 'text' should be a string"):
        prepared(tmp_path, make_tokenizer(), rows_with_bad(999, 1), STRICT)


def test_bad_rows_are_skipped_and_kept_in_the_findings_when_asked_for(tmp_path, make_tokenizer: MakeTokenizer):
    result = prepared(tmp_path, make_tokenizer(), rows_with_bad(99, 1), lenient(0.01))

    assert result.train.rows == 99
    assert result.findings.bad_rows == 1
    assert "rows.jsonl:100" in result.findings.first_bad_rows[0]


def test_more_bad_rows_than_allowed_are_refused_with_their_share(tmp_path, make_tokenizer: MakeTokenizer):
    with pytest.raises(BadData, match=r"2 rows cannot be used(.|\n)*2\.0% of all rows, more than JOB_MAX_BAD_FRACTION"):
        prepared(tmp_path, make_tokenizer(), rows_with_bad(98, 2), lenient(0.01))


def test_a_broken_first_row_does_not_hide_the_format_of_the_others(tmp_path, make_tokenizer: MakeTokenizer):
    result = prepared(tmp_path, make_tokenizer(), "{broken\n" + rows_with_bad(9, 0), lenient(0.2))

    assert (result.format, result.train.rows, result.findings.bad_rows) == ("text", 9, 1)


def test_mostly_truncated_rows_are_refused_unless_allowed(tmp_path, make_tokenizer: MakeTokenizer):
    content = json.dumps({"text": "x" * 100}) + "\n" + json.dumps({"text": "y" * 100}) + "\n" + rows_with_bad(1, 0)

    with pytest.raises(BadData, match=r"2 of 3 rows are cut at 64 tokens.*JOB_ALLOW=truncation"):
        prepared(tmp_path, make_tokenizer(), content, STRICT)
    assert prepared(tmp_path, make_tokenizer(), content, lenient(0.01, "truncation")).train.truncated_tokens == 74


def test_rows_with_nothing_to_learn_are_refused_beyond_the_threshold(tmp_path, make_tokenizer: MakeTokenizer):
    long = json.dumps({"prompt": "p" * 100, "completion": "c"})
    short = json.dumps({"prompt": "p", "completion": "c"})
    content = "\n".join([long, short, short, short])

    with pytest.raises(BadData, match=r"1 of 4 rows have nothing to learn.*JOB_ALLOW=nothing_to_learn"):
        prepared(tmp_path, make_tokenizer(), content, STRICT)
    allowed = prepared(tmp_path, make_tokenizer(), content, lenient(0.01, "nothing_to_learn")).train
    assert (allowed.rows, allowed.dropped_rows, allowed.dropped_tokens) == (3, 1, 64)


def stats(**counts: int) -> SplitStats:
    return SplitStats(**(dict.fromkeys(SplitStats.model_fields, 0) | {"rows": 10, "lengths": ()} | counts))


def split_batch(*contents: int) -> SplitBatch:
    return SplitBatch({}, {}, np.empty(0, dtype=np.int64), np.array(contents, dtype=np.uint64))


@pytest.mark.parametrize(
    ("model_max_length", "advice"),
    [
        (None, "Raise JOB_MAX_LENGTH, or shorten the rows"),
        (4096, "Raise JOB_MAX_LENGTH, which this model lets go up to 4096, or shorten the rows"),
        (64, "JOB_MODEL reads no more than 64 tokens: take another, or shorten the rows"),
    ],
)
def test_nobody_is_told_to_ask_more_of_a_model_than_it_can(
    tmp_path, make_tokenizer: MakeTokenizer, model_max_length, advice
):
    content = json.dumps({"text": "x" * 100}) + "\n"

    with pytest.raises(BadData, match=f"{advice}, or accept it with JOB_ALLOW=truncation"):
        prepared(tmp_path, make_tokenizer(), content, STRICT, model_max_length=model_max_length)


@pytest.mark.parametrize(
    ("taught", "name"),
    [
        (Taught(("", "</s>")), "untrained_end"),
        (Taught(("</s>", "")), "untrained_end"),
        (Taught(("</s>", "</s>"), question=True), "trained_prompt"),
    ],
)
def test_a_template_that_teaches_the_wrong_thing_is_refused_unless_allowed(taught, name):
    with pytest.raises(BadData, match=f"JOB_ALLOW={name}"):
        Gate(STRICT).judge_turns(taught)

    Gate(lenient(0.01, name)).judge_turns(taught)


def test_duplicates_and_rows_on_both_sides_are_counted():
    gate = Gate(STRICT)
    gate.add(Batch([], Counter(), train=split_batch(1, 2, 1), eval=split_batch(2)))
    gate.add(Batch([], Counter(), train=split_batch(1), eval=split_batch(3)))

    findings = gate.findings()

    assert (findings.duplicate_rows, findings.rows_in_train_and_eval) == (2, 1)


@pytest.mark.parametrize(
    ("roles", "oddity"),
    [
        (["user", "system", "assistant"], "system turn after the first"),
        (["user", "user", "assistant"], "the same role twice in a row"),
        (["assistant", "user", "assistant"], "begins with the assistant"),
        (["user", "assistant", "user"], "ends without an answer"),
    ],
)
def test_roles_out_of_order_are_counted_in_words(roles, oddity):
    assert list(oddities(Chat([{"role": role, "content": "x"} for role in roles], None))) == [oddity]


def test_oddities_are_counted_over_all_batches():
    gate = Gate(STRICT)

    for _ in range(2):
        gate.add(Batch([], Counter({"empty turn": 2}), train=split_batch(), eval=split_batch()))

    assert gate.findings().oddities == {"empty turn": 4}


def test_an_ordinary_conversation_with_tools_is_nothing_odd():
    call = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]}
    turns = [
        {"role": "user", "content": "x"},
        call,
        {"role": "tool", "content": "y"},
        {"role": "assistant", "content": "z"},
    ]

    assert list(oddities(Chat(turns, None))) == []


def example(fields: dict, **settings: object):
    row = Row("rows.jsonl:3", fields)
    how = reading(**settings)
    return to_example(row, recognise(row, how)[0], how)


def test_sharegpt_roles_are_mapped_and_not_only_their_keys():
    turns = [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]

    chat = example({"conversations": turns})

    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant"]


@pytest.mark.parametrize(
    ("turn", "reason"),
    [({"from": "alien", "value": "x"}, "is from 'alien'"), ({"from": "gpt"}, "'from' and 'value'"), ("x", "found str")],
)
def test_a_sharegpt_turn_that_cannot_be_read_is_named(turn, reason):
    with pytest.raises(BadData, match=rf"rows\.jsonl:3: conversations\[1\].*{reason}"):
        example({"conversations": [{"from": "human", "value": "q"}, turn]})


def test_a_response_template_leaves_the_loss_on_what_follows_it():
    text = example({"text": "### Q: 1+1\n### Response: 2"}, response_template="### Response:")

    assert text == Text("### Q: 1+1\n### Response:", "### Q: 1+1\n### Response: 2")


def test_a_row_without_the_response_template_is_named():
    with pytest.raises(BadData, match=r"rows\.jsonl:3: 'text' does not contain JOB_RESPONSE_TEMPLATE"):
        example({"text": "no marker"}, response_template="### Response:")


@pytest.mark.parametrize(
    ("fields", "format_"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "preference"),
        ({"chosen": [], "rejected": []}, "preference"),
        ({"prompt": "q", "completion": "a", "label": True}, "unpaired-preference"),
        ({"prompt": "q"}, "prompt-only"),
    ],
)
def test_formats_of_other_methods_are_recognised_and_refused_by_name(fields, format_):
    with pytest.raises(BadData, match=f"format '{format_}', which JOB_METHOD=sft cannot learn from"):
        recognise(Row("f:1", fields), reading())


def test_a_format_that_was_set_is_not_guessed():
    how = reading(format="prompt-completion")

    assert recognise(Row("f:1", {"prompt": "q", "completion": "a", "label": True}), how) == (
        "prompt-completion",
        "JOB_FORMAT=prompt-completion",
    )


def test_tools_are_read_as_a_list_or_as_json():
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]

    assert example({"messages": messages, "tools": '[{"name": "f"}]'}).tools == [{"name": "f"}]
    assert example({"messages": messages, "tools": None}).tools is None
    with pytest.raises(BadData, match="'tools' is not valid JSON"):
        example({"messages": messages, "tools": "[f"})


def test_columns_that_parquet_fills_with_null_are_no_part_of_a_message():
    turns = [{"role": "user", "content": "q", "tool_calls": None}, {"role": "assistant", "content": "a", "name": None}]

    assert example({"messages": turns}).messages[0] == {"role": "user", "content": "q"}


def test_a_chat_template_that_refuses_a_row_is_a_bad_row_like_any_other(tmp_path, make_tokenizer: MakeTokenizer):
    picky = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    good = json.dumps({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]})
    bad = json.dumps({"messages": [{"role": "system", "content": "s"}, {"role": "assistant", "content": "a"}]})

    result = prepared(tmp_path, make_tokenizer(picky), "\n".join([good, bad, good]), lenient(0.5))

    assert (result.train.rows, result.findings.bad_rows) == (2, 1)
    assert "rows.jsonl:2" in result.findings.first_bad_rows[0]


def test_reading_is_plain_data():
    assert Reading({"text": "body"}, None, None, has_chat_template=False).column("text") == "body"
