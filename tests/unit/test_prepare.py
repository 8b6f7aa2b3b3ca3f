"""Rows to tokens: what is read, how it is recognised, what carries loss, and what is refused with file and line."""

import json
import re
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from transformers import PreTrainedTokenizerFast

from job.errors import BadData
from job.prepare.encode import IGNORED, Tokens
from job.prepare.formats import Chat, Reading, Text, recognise
from job.prepare.mix import content_hash, is_held_out
from job.prepare.pack import pack
from job.prepare.preferences import to_example
from job.prepare.read import Row, read_rows
from job.prepare.story import prepare
from job.prepare.tokenize import RowTokenizer
from job.records import DataFile, GateSettings, PrepareTask
from tests.unit.conftest import CHATML, MARKED, MakeTokenizer

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "Ciao"},
]


def reading(columns: dict[str, str] | None = None, **settings: object) -> Reading:
    defaults = {"format": None, "response_template": None, "has_chat_template": True}
    return Reading(columns or {}, **(defaults | settings))


def file_of(tmp_path: Path, content: str | bytes, name: str = "rows.jsonl") -> tuple[DataFile, ...]:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return (DataFile(path=path, name=name, identity=""),)


def read(tmp_path: Path, content: str | bytes, name: str = "rows.jsonl") -> list[Row | BadData]:
    return list(read_rows(file_of(tmp_path, content, name)))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", '{"text": "größe"}\n{"text": "b"}'),
        ("rows.jsonl", b'\xef\xbb\xbf{"text": "gr\xc3\xb6\xc3\x9fe"}\r\n\r\n{"text": "b"}\r\n'),
        ("rows.json", '{"text": "größe"}\n{"text": "b"}\n'),
        ("rows.json", '\n [{"text": "größe"}, {"text": "b"}]'),
        ("rows.csv", 'text\n"größe"\nb\n'),
    ],
)
def test_every_text_format_gives_the_same_rows(tmp_path, name, content):
    assert [row.fields for row in read(tmp_path, content, name)] == [{"text": "größe"}, {"text": "b"}]


def test_parquet_rows_keep_their_nesting(tmp_path):
    pa.parquet.write_table(pa.Table.from_pylist([{"messages": CHAT}]), tmp_path / "rows.parquet")

    rows = list(read_rows((DataFile(path=tmp_path / "rows.parquet", name="rows.parquet", identity=""),)))

    assert rows == [Row("rows.parquet:row 1", {"messages": CHAT})]


def test_a_broken_parquet_file_is_named(tmp_path):
    with pytest.raises(BadData, match=r"rows\.parquet is not readable"):
        read(tmp_path, b"PAR1 not really", "rows.parquet")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a"', "not valid JSON"),
        (b'{"text": "\xff"}', "not valid UTF-8"),
        (b"[1, 2]", "expected an object, found list"),
        (b'"text"', "expected an object, found str"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_and_the_next_is_read_all_the_same(tmp_path, line, reason):
    good, bad, last = read(tmp_path, b'{"text": "a"}\n' + line + b'\n{"text": "b"}\n')

    assert good.fields == {"text": "a"}
    assert "rows.jsonl:2" in str(bad)
    assert reason in str(bad)
    assert last.where == "rows.jsonl:3"


def test_a_csv_row_with_too_few_fields_is_named(tmp_path):
    assert "rows.csv:2: expected 2 columns" in str(read(tmp_path, "prompt,completion\nonly\n", "rows.csv")[0])


@pytest.mark.parametrize(
    ("fields", "columns", "format_"),
    [
        ({"messages": CHAT}, {}, "messages"),
        ({"prompt": "a", "completion": "b"}, {}, "prompt-completion"),
        ({"question": "a", "answer": "b"}, {"prompt": "question", "completion": "answer"}, "prompt-completion"),
        ({"instruction": "a", "input": "", "output": "b"}, {}, "alpaca"),
        ({"text": "a", "id": 1}, {}, "text"),
        ({"body": "a"}, {"text": "body"}, "text"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, {}, "sharegpt"),
        ({"messages": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, {}, "sharegpt"),
        ({"conversations": CHAT}, {}, "messages"),
    ],
)
def test_formats_are_recognised_by_their_columns(fields, columns, format_):
    assert recognise(Row("f:1", fields), reading(columns))[0] == format_


def test_unknown_columns_are_refused_with_the_variable_that_maps_them():
    with pytest.raises(BadData, match=r"'question', 'answer'.*JOB_COLUMNS=prompt=question"):
        recognise(Row("f:1", {"question": "a", "answer": "b"}), reading())


def test_a_mapped_column_that_does_not_exist_is_named():
    with pytest.raises(BadData, match="maps prompt to 'qestion'"):
        recognise(Row("f:1", {"question": "a"}), reading({"prompt": "qestion"}))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"messages": []}, "should be a list of messages"),
        ({"messages": "hi"}, "should be a list of messages"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\] should be an object with 'role' and 'content'"),
        ({"messages": [{"role": "human", "content": "x"}]}, "has role 'human'"),
        ({"messages": [{"role": "user", "content": None}]}, "has content NoneType None"),
        ({"messages": CHAT[:2]}, "no assistant turn"),
        ({"prompt": "a", "completion": " "}, "'completion' is empty"),
        ({"prompt": None, "completion": "a"}, "'prompt' should be a string"),
        ({"instruction": "", "output": "a"}, "'instruction' is empty"),
        ({"text": 3}, "'text' should be a string, found int 3"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(fields, reason):
    row = Row("rows.jsonl:7", fields)
    format_ = recognise(row, reading())[0]

    with pytest.raises(BadData, match=rf"rows\.jsonl:7: .*{reason}"):
        to_example(row, format_, reading())


def test_alpaca_becomes_a_chat_where_the_model_has_a_template_and_text_where_not():
    row = Row("f:1", {"instruction": "Add.", "input": "1 2", "output": "3"})

    chat = to_example(row, "alpaca", reading())
    text = to_example(row, "alpaca", reading(has_chat_template=False))

    assert isinstance(chat, Chat)
    assert chat.messages[0]["content"] == "Add.\n\n1 2"
    assert isinstance(text, Text)
    assert text.text.endswith("### Response:\n3")


def trained_text(folder: Path, tokens: Tokens) -> list[str]:
    """The stretches of text that carry loss."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    pieces: list[list[int]] = [[]]
    for label in tokens.labels:
        if label != IGNORED:
            pieces[-1].append(int(label))
        elif pieces[-1]:
            pieces.append([])
    return [tokenizer.decode(piece) for piece in pieces if piece]


@pytest.mark.parametrize(
    ("template", "expected"), [(MARKED, ["Hello</s>", "Ciao</s>"]), (CHATML, ["Hello</s>\n", "Ciao</s>\n"])]
)
def test_loss_is_on_the_assistants_turns_and_their_end_token(make_tokenizer: MakeTokenizer, template, expected):
    folder = make_tokenizer(template)

    (tokens,) = RowTokenizer(folder)([("f:1", Chat(CHAT, prompt_turns=None))])

    assert trained_text(folder, tokens) == expected


def test_conversational_prompt_and_completion_train_the_completion(make_tokenizer: MakeTokenizer):
    folder = make_tokenizer(CHATML)

    (tokens,) = RowTokenizer(folder)([("f:1", Chat(CHAT[1:3], prompt_turns=1))])

    assert trained_text(folder, tokens) == ["Hello</s>\n"]


def test_plain_prompt_and_completion_train_the_completion_and_the_end_token(make_tokenizer: MakeTokenizer):
    folder = make_tokenizer()

    rows = RowTokenizer(folder)([("f:1", Text("1+1=", "1+1=2")), ("f:2", Text(None, "all of it"))])

    assert [trained_text(folder, row) for row in rows] == [["2</s>"], ["all of it</s>"]]


def test_an_end_token_that_is_there_already_is_not_doubled(make_tokenizer: MakeTokenizer):
    folder = make_tokenizer()

    (tokens,) = RowTokenizer(folder)([("f:1", Text(None, "done</s>"))])

    assert trained_text(folder, tokens) == ["done</s>"]


def test_a_template_that_rewrites_earlier_turns_is_refused_rather_than_guessed(make_tokenizer: MakeTokenizer):
    shifting = "{% for m in messages %}{{ m['role'] ~ loop.revindex ~ m['content'] }}{% endfor %}"

    (problem,) = RowTokenizer(make_tokenizer(shifting))([("rows.jsonl:9", Chat(CHAT, prompt_turns=None))])

    assert isinstance(problem, BadData)
    assert re.match(r"rows\.jsonl:9: .*cannot be told apart", problem.cause)


def test_a_template_that_raises_is_blamed_with_the_row(make_tokenizer: MakeTokenizer):
    picky = "{{ raise_exception('no system turn') }}"

    (problem,) = RowTokenizer(make_tokenizer(picky))([("rows.jsonl:4", Chat(CHAT, prompt_turns=None))])

    assert isinstance(problem, BadData)
    assert re.match(r"rows\.jsonl:4: the chat template .* no system turn", problem.cause)


def test_a_tokenizer_without_an_end_token_is_refused(make_tokenizer: MakeTokenizer):
    with pytest.raises(BadData, match="eos_token"):
        RowTokenizer(make_tokenizer(eos_token=None))([("f:1", Text(None, "x"))])


def task(tmp_path: Path, tokenizer: Path, content: str, **settings: object) -> PrepareTask:
    defaults = {
        "columns": {}, "format": None, "response_template": None, "max_length": 64, "eval_fraction": 0.0, "seed": 1,
        "packing": False, "gate": GateSettings(bad_rows="fail", max_bad_fraction=1.0, allow=("truncation",)),
    }  # fmt: skip
    files = file_of(tmp_path, content)
    return PrepareTask(train_files=files, tokenizer=tokenizer, tokenizer_identity="", **(defaults | settings))


def lines(count: int) -> str:
    return "".join(json.dumps({"text": f"row {index}"}) + "\n" for index in range(count))


def read_arrow(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_stream(source).read_all()


def test_one_row_is_enough(tmp_path, make_tokenizer: MakeTokenizer):
    prepared = prepare(task(tmp_path, make_tokenizer(), lines(1)), tmp_path)

    assert prepared.train.rows == prepared.train.sequences == 1
    assert read_arrow(tmp_path / "train.arrow").column_names == ["input_ids", "labels"]


@pytest.mark.parametrize("content", ["", "\n\n \n"])
def test_no_rows_are_bad_data(tmp_path, make_tokenizer: MakeTokenizer, content):
    with pytest.raises(BadData, match=r"rows\.jsonl holds no rows"):
        prepare(task(tmp_path, make_tokenizer(), content), tmp_path)


def test_all_bad_rows_are_counted_and_the_first_twenty_shown(tmp_path, make_tokenizer: MakeTokenizer):
    content = lines(1) + '{"text": 1}\n' * 30

    with pytest.raises(BadData) as refused:
        prepare(task(tmp_path, make_tokenizer(), content), tmp_path)

    message = str(refused.value)
    assert "30 rows cannot be used" in message
    assert "  - rows.jsonl:2, rows.jsonl:3, " in message
    assert "rows.jsonl:21: 'text' should be a string, found int 1." in message
    assert message.count("should be a string") == 1
    assert "and 10 more" in message


def test_long_rows_are_cut_and_counted_and_those_with_nothing_left_are_dropped(tmp_path, make_tokenizer: MakeTokenizer):
    rows = [{"prompt": "p" * 100, "completion": "c"}, {"prompt": "p", "completion": "c" * 100}]
    content = "\n".join(map(json.dumps, rows))

    stats = prepare(task(tmp_path, make_tokenizer(), content), tmp_path).train

    assert (stats.rows, stats.truncated_rows, stats.dropped_rows, stats.tokens, stats.max_tokens) == (1, 2, 1, 64, 64)


def test_rows_that_are_all_cut_before_anything_to_learn_are_refused(tmp_path, make_tokenizer: MakeTokenizer):
    content = json.dumps({"prompt": "p" * 100, "completion": "c"})

    with pytest.raises(BadData, match="all 1 rows are cut off at 64 tokens"):
        prepare(task(tmp_path, make_tokenizer(), content), tmp_path)


def test_packs_hold_every_token_once_and_say_where_rows_end(tmp_path, make_tokenizer: MakeTokenizer):
    alone = prepare(task(tmp_path, make_tokenizer(), lines(50)), tmp_path).train
    packed = prepare(task(tmp_path, make_tokenizer(), lines(50), packing=True), tmp_path).train

    table = read_arrow(tmp_path / "train.arrow").to_pylist()
    assert packed.tokens == alone.tokens == sum(len(pack_["input_ids"]) for pack_ in table)
    assert packed.sequences == len(table) < alone.sequences
    assert all(sum(pack_["seq_lengths"]) == len(pack_["input_ids"]) <= 64 for pack_ in table)


def test_held_out_rows_are_picked_by_content_and_never_stand_on_both_sides(tmp_path, make_tokenizer: MakeTokenizer):
    content = lines(200) * 2

    prepared = prepare(task(tmp_path, make_tokenizer(), content, eval_fraction=0.2), tmp_path)

    train, held_out = (
        {tuple(row["input_ids"]) for row in read_arrow(tmp_path / f"{split}.arrow").to_pylist()}
        for split in ("train", "eval")
    )
    assert not train & held_out
    assert prepared.train.rows + prepared.eval.rows == 400
    assert 40 <= prepared.eval.rows <= 120


def test_the_split_does_not_move_when_rows_are_added():
    rows = [Row(f"f:{index}", {"text": str(index)}) for index in range(100)]
    held_out = {row.where for row in rows if is_held_out(content_hash(row, 42), 0.3)}

    assert {row.where for row in rows[:50] if is_held_out(content_hash(row, 42), 0.3)} == held_out & {
        row.where for row in rows[:50]
    }
    assert 10 < len(held_out) < 50
    assert not any(is_held_out(content_hash(row, 42), 0.0) for row in rows)


@pytest.mark.parametrize(
    ("lengths", "packs"),
    [
        ([], []),
        ([10], [[0]]),
        ([6, 5, 4, 3], [[0, 2], [1, 3]]),
        ([3, 3, 3, 1], [[0, 1, 2, 3]]),
        ([10, 10], [[0], [1]]),
    ],
)
def test_each_row_goes_into_the_pack_with_the_least_room_that_holds_it(lengths, packs):
    assert pack(lengths, 10) == packs


def test_preparing_needs_no_torch(tmp_path, make_tokenizer: MakeTokenizer):
    import subprocess

    (tmp_path / "task.json").write_text(task(tmp_path, make_tokenizer(CHATML), lines(3)).model_dump_json())
    code = "import sys, runpy\nrunpy.run_module('job.prepare', run_name='__main__')\nassert not sys.modules['torch']"

    command = [sys.executable, "-c", code, "rows", str(tmp_path / "task.json"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True)

    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "prepared.json").exists()
