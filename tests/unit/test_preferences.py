"""Pairs and judged answers: how they are read, cut and refused."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.errors import BadData
from job.prepare.encode import IGNORED, Tokens
from job.prepare.formats import Chat, Judged, Pair, Reading, Text, recognise
from job.prepare.preferences import to_example
from job.prepare.preview import preview
from job.prepare.read import Row
from job.prepare.shape import shape
from job.prepare.story import prepare
from job.records import DataFile, GateSettings, PrepareTask

Fields = dict[str, Any]


def user(text: str) -> Fields:
    return {"role": "user", "content": text}


def assistant(text: str) -> Fields:
    return {"role": "assistant", "content": text}


def read(fields: Fields, method: str = "dpo", **columns: str) -> Any:
    row, how = Row("f:1", fields), Reading(columns, None, None, has_chat_template=True, method=method)
    return to_example(row, recognise(row, how)[0], how)


def test_a_pair_of_strings_has_a_prompt_of_its_own_or_the_one_both_begin_with():
    expected = Pair(Text("two and two ", "two and two four"), Text("two and two ", "two and two six"))

    assert read({"prompt": "two and two ", "chosen": "four", "rejected": "six"}) == expected
    assert read({"chosen": "two and two: a", "rejected": "two and two: b"}).chosen.prompt == "two and two:"


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": [user("a")], "chosen": [assistant("b")], "rejected": [assistant("c")]},
        {"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c")]},
        {"prompt": "a", "chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c")]},
        {"prompt": "a", "chosen": [assistant("b")], "rejected": [assistant("c")]},
    ],
)
def test_a_pair_of_conversations_is_the_same_however_its_prompt_is_given(fields):
    assert read(fields) == Pair(Chat([user("a"), assistant("b")], 1), Chat([user("a"), assistant("c")], 1))


@pytest.mark.parametrize("label", [True, 1, "true", "True"])
def test_a_judged_answer_is_good_or_bad(label):
    assert read({"prompt": "q", "completion": "a", "label": label}, "kto") == Judged(Text("q", "qa"), is_good=True)


@pytest.mark.parametrize(
    ("method", "fields", "reason"),
    [
        ("dpo", {"prompt": "q", "chosen": "a", "rejected": "a"}, "'chosen' and 'rejected' are equal"),
        ("dpo", {"prompt": "q", "chosen": "a", "rejected": " "}, "'rejected' is empty"),
        ("dpo", {"prompt": "q", "chosen": "a", "rejected": None}, "'rejected' should be a string"),
        ("dpo", {"chosen": [user("a")], "rejected": [user("b")]}, "begin with different messages"),
        ("dpo", {"prompt": [user("a")], "chosen": [user("b")], "rejected": [assistant("c")]}, "'chosen' has no assist"),
        ("kto", {"prompt": "q", "completion": "a", "label": "yes"}, "'label' should be true or false, found str 'yes'"),
        ("kto", {"prompt": "q", "completion": "a", "label": 0.5}, "'label' should be true or false, found float 0.5"),
        ("kto", {"prompt": "q", "completion": "", "label": True}, "'completion' is empty"),
        ("kto", {"prompt": "q", "completion": "a"}, "needs 'unpaired-preference' or 'preference'"),
        ("dpo", {"prompt": "q", "completion": "a"}, "needs 'preference'.*chosen=better,rejected=worse.*JOB_METHOD=sft"),
        ("sft", {"prompt": "q", "chosen": "a", "rejected": "b"}, "JOB_METHOD=dpo or kto or reward"),
    ],
)
def test_a_row_that_cannot_teach_is_refused_with_the_reason(method, fields, reason):
    with pytest.raises(BadData) as refused:
        read(fields, method)
    assert re.search(reason, f"{refused.value.cause} {refused.value.fix}")


def tokens(prompt: int, *answer: int) -> Tokens:
    ids = np.array([*range(1, prompt + 1), *answer], dtype=np.int32)
    labels = ids.copy()
    labels[:prompt] = IGNORED
    return Tokens(ids, labels)


def lists(shaped: Any) -> Any:
    return shaped.columns and tuple(column.tolist() for column in shaped.columns)


def test_a_pair_is_cut_at_the_end_of_each_answer_and_left_out_where_no_answer_or_no_difference_remains():
    chosen, rejected = tokens(2, 7, 8, 9), tokens(2, 7, 5)

    (whole,), (cut,), (equal,), (none,) = (shape("dpo", [chosen, rejected], None, length) for length in (9, 4, 3, 2))

    assert lists(whole) == ([1, 2], [7, 8, 9], [7, 5])
    assert (whole.tokens, whole.trained, whole.longest, whole.cut) == (9, 5, 5, 0)
    assert (lists(cut), cut.cut) == (([1, 2], [7, 8], [7, 5]), 1)
    assert equal.columns is None
    assert none.columns is None


def test_pairs_to_judge_become_two_rows_and_those_to_score_are_never_cut():
    pair = [tokens(2, 7, 8), tokens(2, 5)]

    assert [lists(row) for row in shape("kto", pair, None, 9)] == [([1, 2], [7, 8], [1]), ([1, 2], [5], [0])]
    assert lists(shape("reward", pair, None, 4)[0]) == ([1, 2, 7, 8], [1, 2, 5])
    assert shape("reward", pair, None, 3)[0].columns is None


def task(folder: Path, rows: list[Fields], tokenizer: Path, **settings: Any) -> PrepareTask:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    defaults = {"max_length": 64, "eval_fraction": 0.0, "seed": 1, "packing": False, "columns": {}, "format": None}
    return PrepareTask(
        train_files=(DataFile(path=path, name=path.name, identity=""),), tokenizer=tokenizer, tokenizer_identity="",
        response_template=None, gate=GateSettings(bad_rows="fail", max_bad_fraction=0.01, allow=()),
        **(defaults | settings),
    )  # fmt: skip


def test_labels_of_one_kind_teach_nothing(tmp_path, make_tokenizer):
    rows = [{"prompt": "q", "completion": answer, "label": True} for answer in ("a", "b")]

    with pytest.raises(BadData, match="All 2 rows are of good answers, and JOB_METHOD=kto learns from both"):
        prepare(task(tmp_path, rows, make_tokenizer(), method="kto"), tmp_path)


def test_pairs_that_are_too_long_for_a_score_are_counted(tmp_path, make_tokenizer):
    rows = [{"prompt": "q", "chosen": "a" * 70, "rejected": "b"}, {"prompt": "q", "chosen": "a", "rejected": "b"}]

    with pytest.raises(BadData, match="1 of 2 rows hold an answer, with its prompt, of more than 64 tokens"):
        prepare(task(tmp_path, rows, make_tokenizer(), method="reward"), tmp_path)


def test_tokens_of_both_answers_count(tmp_path, make_tokenizer):
    rows = [{"prompt": "q", "chosen": "aa", "rejected": "b"}, {"prompt": "q", "chosen": "aa", "rejected": "b"}]
    prepared = prepare(task(tmp_path, rows, make_tokenizer(), method="dpo"), tmp_path)

    assert (prepared.train.rows, prepared.train.tokens, prepared.train.max_tokens) == (2, 2 * (4 + 3), 4)
    assert prepared.train.trained_tokens == 2 * (3 + 2)
    assert prepared.findings.duplicate_rows == 1


def test_a_preview_shows_both_answers_with_what_is_learned(tmp_path, make_tokenizer):
    rows = [{"prompt": "q", "chosen": "aa", "rejected": "b"}]
    shown = preview(task(tmp_path, rows, make_tokenizer(), method="dpo", row_limit=1))

    assert [row.where for row in shown.rows] == ["rows.jsonl:1, chosen", "rows.jsonl:1, rejected"]
    assert [[(piece.text, piece.trained) for piece in row.pieces] for row in shown.rows] == [
        [("q", False), ("aa</s>", True)],
        [("q", False), ("b</s>", True)],
    ]
