"""Rows that were held out, as questions to answer after training; and the first rows, for a person to look at."""

import json
from pathlib import Path
from typing import Any

import pytest

from job.errors import BadData
from job.prepare.story import prepare
from job.records import HELD_OUT, DataFile, GateSettings, HeldOut, HeldOutRow, PrepareTask
from job.rundir import read_record
from tests.unit.conftest import CHATML, MakeTokenizer

ASK, ANSWER = {"role": "user", "content": "two and two"}, {"role": "assistant", "content": "four"}
Fields = dict[str, Any]


def task(folder: Path, tokenizer: Path, rows: list[Fields], **settings: Any) -> PrepareTask:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    defaults = {
        "max_length": 256, "gate": GateSettings(bad_rows="skip", max_bad_fraction=0.9, allow=()), "columns": {},
        "format": None, "response_template": None, "eval_fraction": 0.0, "seed": 1, "packing": False,
        "held_out_prompts": 2, "answer_tokens": 8,
    }  # fmt: skip
    file = DataFile(path=path, name=path.name, identity="")
    files = {"train_files": (file,), "eval_files": (file,)}
    return PrepareTask(tokenizer=tokenizer, tokenizer_identity="", **(files | defaults | settings))


def asked(folder: Path, tokenizer: Path, rows: list[Fields], **settings: Any) -> list[HeldOutRow]:
    prepare(task(folder, tokenizer, rows, **settings), folder)
    return list(read_record(folder / HELD_OUT, HeldOut).rows)


def test_a_conversation_is_asked_up_to_its_last_turn_as_the_model_reads_it(tmp_path, make_tokenizer: MakeTokenizer):
    from transformers import AutoTokenizer

    folder, more = make_tokenizer(CHATML), {"role": "user", "content": "and three"}
    rows = [{"messages": [ASK, ANSWER]}, {"messages": [ASK, ANSWER, more, ANSWER]}, {"messages": [ASK, ANSWER]}]
    first, second = asked(tmp_path, folder, rows)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    assert first.prompt == tokenizer.apply_chat_template([ASK], tokenize=False, add_generation_prompt=True)
    assert list(first.input_ids) == tokenizer.apply_chat_template([ASK], add_generation_prompt=True)["input_ids"]
    assert second.prompt == tokenizer.apply_chat_template(
        [ASK, ANSWER, more], tokenize=False, add_generation_prompt=True
    )
    assert (first.reference, second.reference) == ("four", "four")


@pytest.mark.parametrize(
    ("row", "settings", "prompt", "reference"),
    [
        ({"prompt": "two and ", "completion": "two"}, {}, "two and ", "two"),
        ({"text": "two and two: four"}, {"response_template": ": "}, "two and two: ", "four"),
        ({"instruction": "add", "output": "four"}, {}, "### Instruction:\nadd\n\n### Response:\n", "four"),
        ({"prompt": "two", "chosen": " four", "rejected": " five"}, {"method": "dpo"}, "two", " four"),
    ],
)
def test_every_format_has_its_prompt_and_its_answer(
    tmp_path, make_tokenizer: MakeTokenizer, row, settings, prompt, reference
):
    (held,) = asked(tmp_path, make_tokenizer(), [row], **settings)

    assert (held.prompt, held.reference) == (prompt, reference)


def test_of_judged_answers_only_good_ones_are_references(tmp_path, make_tokenizer: MakeTokenizer):
    rows = [{"prompt": "a", "completion": " x", "label": False}, {"prompt": "b", "completion": " y", "label": True}]
    (held,) = asked(tmp_path, make_tokenizer(), rows, method="kto")

    assert (held.prompt, held.reference) == ("b", " y")


def test_rows_are_the_ones_that_are_evaluated_on_in_their_order(tmp_path, make_tokenizer: MakeTokenizer):
    import pyarrow as pa

    rows = [{"prompt": f"{number} and ", "completion": "two"} for number in range(40)]
    held = asked(tmp_path, make_tokenizer(), rows, eval_files=(), eval_fraction=0.3, held_out_prompts=5)
    with pa.memory_map(str(tmp_path / "eval.arrow")) as source:
        evaluated = pa.ipc.open_stream(source).read_all().to_pylist()

    assert len(held) == 5
    for one, row in zip(held, evaluated, strict=False):
        assert row["input_ids"][: len(one.input_ids)] == list(one.input_ids)


def test_prompts_without_room_for_an_answer_are_passed_over(tmp_path, make_tokenizer: MakeTokenizer):
    rows = [{"prompt": "word " * 30, "completion": "x"}, {"prompt": "b", "completion": " y"}]
    (held,) = asked(tmp_path, make_tokenizer(), rows, model_max_length=20)
    assert held.prompt == "b"

    with pytest.raises(BadData, match=r"no held-out row has a prompt that leaves room for an answer of 80 tokens"):
        asked(tmp_path, make_tokenizer(), rows, model_max_length=64, answer_tokens=80)


def test_the_first_rows_that_are_trained_on_are_shown(tmp_path, make_tokenizer: MakeTokenizer):
    rows = [{"prompt": f"{number} and ", "completion": "two"} for number in range(8)]
    prepared = prepare(task(tmp_path, make_tokenizer(), [{"prompt": "7", "completion": ""}, *rows]), tmp_path)

    shown = prepared.first_rows
    assert [row.where for row in shown] == [f"rows.jsonl:{line}" for line in range(2, 7)]
    assert [piece.text for piece in shown[0].pieces if not piece.trained] == ["0 and "]
