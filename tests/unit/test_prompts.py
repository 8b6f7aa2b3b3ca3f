"""Rows as prompts that the model answers itself: how they are read, rendered, kept and refused."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from job.errors import BadData
from job.prepare.formats import Chat, Reading, Text, recognise
from job.prepare.preview import preview
from job.prepare.prompts import Prompt, to_prompt
from job.prepare.read import Row
from job.prepare.story import prepare
from job.records import DataFile, GateSettings, PrepareTask, PromptSettings
from tests.unit.conftest import CHATML, MakeTokenizer

Fields = dict[str, Any]
ASK = {"role": "user", "content": "two and two"}
ANSWER = {"role": "assistant", "content": "four"}


def read(fields: Fields, **columns: str) -> Prompt:
    row, how = Row("f:1", fields), Reading(columns, None, None, has_chat_template=True, method="grpo")
    return to_prompt(row, recognise(row, how)[0], how)


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({"prompt": "two and two"}, Prompt(Text("two and two", "two and two"), None)),
        ({"prompt": [ASK]}, Prompt(Chat([ASK], None), None)),
        ({"prompt": "two and two", "completion": "four"}, Prompt(Text("two and two", "two and two"), "four")),
        ({"prompt": [ASK], "completion": [ANSWER]}, Prompt(Chat([ASK], 1), "four")),
        ({"messages": [ASK, ANSWER]}, Prompt(Chat([ASK], None), "four")),
        ({"messages": [ASK, ANSWER, ASK]}, Prompt(Chat([ASK, ANSWER, ASK], None), None)),
        ({"conversations": [{"from": "human", "value": "two and two"}, {"from": "gpt", "value": "four"}]},
         Prompt(Chat([ASK], None), "four")),
        ({"instruction": "two and two", "output": "four"}, Prompt(Chat([ASK], 1), "four")),
    ],
)  # fmt: skip
def test_the_last_answer_of_a_row_is_what_others_are_compared_with(fields, prompt):
    assert read(fields) == prompt


def test_columns_are_mapped():
    assert read({"question": "q", "answer": "a"}, prompt="question", completion="answer").reference == "a"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"text": "a"}, "the rows are of format 'text', which JOB_METHOD=grpo"),
        ({"chosen": "a", "rejected": "b"}, "JOB_COLUMNS=prompt=question"),
        ({"prompt": " "}, "'prompt' is empty"),
        ({"messages": [ANSWER]}, "one answer without a prompt"),
    ],
)
def test_what_is_no_prompt_is_refused(fields, reason):
    with pytest.raises(BadData, match=reason):
        read(fields)


def task(folder: Path, tokenizer: Path, rows: list[Fields], **settings: Any) -> PrepareTask:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    defaults = {
        "prompts": PromptSettings(scores=(), marker=None, max_completion_length=8), "max_length": 64,
        "gate": GateSettings(bad_rows="fail", max_bad_fraction=0.0, allow=()), "columns": {}, "format": None,
        "response_template": None, "eval_fraction": 0.0, "seed": 1, "packing": False, "method": "grpo",
    }  # fmt: skip
    file = DataFile(path=path, name=path.name, identity="")
    return PrepareTask(train_files=(file,), tokenizer=tokenizer, tokenizer_identity="", **(defaults | settings))


def prepared(folder: Path) -> list[Fields]:
    with pa.memory_map(str(folder / "train.arrow")) as source:
        return pa.ipc.open_stream(source).read_all().to_pylist()


def test_prompts_are_kept_as_the_model_reads_them_with_the_answer_beside(tmp_path, make_tokenizer: MakeTokenizer):
    from transformers import AutoTokenizer

    folder = make_tokenizer(CHATML)
    result = prepare(task(tmp_path, folder, [{"messages": [ASK, ANSWER]}, {"messages": [ASK]}]), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    first, second = prepared(tmp_path)

    assert first["prompt"] == tokenizer.apply_chat_template([ASK], tokenize=False, add_generation_prompt=True)
    assert first["input_ids"] == tokenizer.apply_chat_template([ASK], add_generation_prompt=True)["input_ids"]
    assert json.loads(first["messages"]) == [ASK]
    assert (first["reference"], second["reference"]) == ("four", None)
    assert (result.train.rows, result.train.trained_tokens) == (2, 0)


def test_a_prompt_of_text_is_tokenized_as_upstream_does_it(tmp_path, make_tokenizer: MakeTokenizer):
    from transformers import AutoTokenizer

    folder = make_tokenizer()
    prepare(task(tmp_path, folder, [{"prompt": "two and two"}]), tmp_path)
    (row,) = prepared(tmp_path)

    assert row["input_ids"] == AutoTokenizer.from_pretrained(folder)(text=["two and two"])["input_ids"][0]
    assert (row["prompt"], row["messages"]) == ("two and two", None)


@pytest.mark.parametrize(
    ("rows", "prompts", "reason"),
    [
        ([{"prompt": "a", "completion": "7"}, {"prompt": "b", "completion": "none"}], {"scores": ("numeric_answer",)},
         r"rows\.jsonl:2: the reward numeric_answer cannot be had, as the reference answer has no number\."),
        ([{"prompt": "a", "completion": "7"}], {"scores": ("numeric_answer",), "marker": "####"},
         "has no number behind '####'"),
        ([{"prompt": "a"}], {"scores": ("exact_match",)}, "there is no reference answer"),
        ([{"prompt": "word " * 80}], {}, "more than the 56 that JOB_MAX_LENGTH=64 leaves beside"),
        ([{"prompt": "a"}], {"per_step": 2}, "1 prompts are fewer than the 2 of one step"),
    ],
)  # fmt: skip
def test_prompts_that_cannot_be_rewarded_or_answered_are_refused(
    tmp_path, make_tokenizer: MakeTokenizer, rows, prompts, reason
):
    settings = PromptSettings(**({"scores": (), "marker": None, "max_completion_length": 8} | prompts))

    with pytest.raises(BadData, match=reason):
        prepare(task(tmp_path, make_tokenizer(), rows, prompts=settings), tmp_path)


def test_a_preview_shows_a_prompt_up_to_the_answer(tmp_path, make_tokenizer: MakeTokenizer):
    (row,) = preview(task(tmp_path, make_tokenizer(), [{"messages": [ASK, ANSWER]}], row_limit=1)).rows

    assert row.trained_tokens == 0
    assert "four" not in "".join(piece.text for piece in row.pieces)
