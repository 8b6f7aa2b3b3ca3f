"""Damaged files through all of preparation: they end in prepared rows or in a problem that names its place."""

import json
import random
import re
from pathlib import Path

import pyarrow as pa
import pytest

from job.errors import BadData
from job.prepare.story import write_rows
from job.prepare.tokenize import RowTokenizer
from job.records import DataFile, GateSettings, Prepared, PrepareTask
from tests.corruption import ROWS, arrow, damage_bytes, damage_row, parquet, whole_files, wrong_value
from tests.thorough import some
from tests.unit.conftest import MakeTokenizer

_WORDS = "m['content'] + (m['tool_calls'] | tojson if m['tool_calls'] else '') + '</s>'"
COMPARED = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    f"{{% for m in messages %}}{{{{ '<s>' + m['role'] + '\n' + {_WORDS} + '\n' }}}}{{% endfor %}}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ '<s>' + m['role'] + '\n' }}"
    f"{{% if m['role'] == 'assistant' %}}{{% generation %}}{{{{ {_WORDS} }}}}{{% endgeneration %}}"
    f"{{% else %}}{{{{ {_WORDS} }}}}{{% endif %}}{{{{ '\n' }}}}{{% endfor %}}"
)

# A whole file cannot be used, or not from some byte on: there is no row to name.
_OF_THE_FILE = (
    "is not readable", "cannot be decompressed", "holds no rows", "ends inside its JSON array", "near byte",
    "in the JSON array", "after the end of the array", "appears twice",
)  # fmt: skip
TIMES = some([30, 120], always=[30])  # that something is damaged
STRICT = GateSettings(bad_rows="fail", max_bad_fraction=0.0, allow=("truncation", "nothing_to_learn", "untrained_end"))


def prepared(
    folder: Path, tokenizer: RowTokenizer, files: dict[str, bytes], gate: GateSettings = STRICT
) -> Prepared | BadData:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    task = PrepareTask(
        train_files=tuple(DataFile(path=folder / name, name=name, identity="") for name in files),
        tokenizer=folder, tokenizer_identity="", columns={}, format=None, response_template=None, max_length=2**15,
        eval_fraction=0.0, seed=1, packing=False, gate=gate,
    )  # fmt: skip
    try:
        return write_rows(task, folder, tokenizer)
    except BadData as refused:
        return refused


def names_its_place(problem: str, name: str) -> bool:
    """Whether *problem* names the file, and its line or row unless the file as a whole is at fault."""
    row = re.search(rf"(^|\s){re.escape(name)}:(row )?\d+\b", problem)
    return bool(row or (name in problem and any(words in problem for words in _OF_THE_FILE)))


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("name", whole_files())
def test_damaged_bytes_end_in_rows_or_in_a_problem_with_its_place(tmp_path, make_tokenizer: MakeTokenizer, name, times):
    rng, tokenizer, whole = random.Random(name), RowTokenizer(make_tokenizer(MARKED)), whole_files()[name]
    sound = prepared(tmp_path, tokenizer, {name: whole})
    outcomes = [prepared(tmp_path, tokenizer, {name: damage_bytes(rng, whole)}) for _ in range(times)]

    assert isinstance(sound, Prepared)
    assert [str(o) for o in outcomes if isinstance(o, BadData) and not names_its_place(str(o), name)] == []
    assert any(isinstance(o, BadData) for o in outcomes), "the damage was not real"


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("template", [COMPARED, MARKED], ids=["compared", "marked"])
@pytest.mark.parametrize("format_", ROWS)
def test_the_one_damaged_row_is_named_by_its_line(tmp_path, make_tokenizer: MakeTokenizer, format_, template, times):
    rng, tokenizer = random.Random(format_), RowTokenizer(make_tokenizer(template))
    sound = json.dumps(ROWS[format_][0])
    refused = 0
    for number in range(times):
        damaged = damage_row(rng, format_)
        at = rng.randrange(1, 4)  # not the first: by that one the format is recognised
        rows = [damaged if index == at else sound for index in range(4)]
        is_array = number % 4 == 0
        name = "rows.json" if is_array else "rows.jsonl"
        content = "[" + ",\n".join(rows) + "]" if is_array else "\n".join(rows)

        outcome = prepared(tmp_path, tokenizer, {name: content.encode()})

        if isinstance(outcome, BadData):
            refused += 1
            place = f"{name}:row {at + 1}: " if is_array else f"{name}:{at + 1}: "
            assert place in str(outcome), damaged
        else:
            assert outcome.train.rows == 4, damaged
    assert times / 5 < refused < times  # the damage was real, and not always fatal


def test_a_damaged_first_row_is_named_too(tmp_path, make_tokenizer: MakeTokenizer):
    rng, tokenizer = random.Random(1), RowTokenizer(make_tokenizer(COMPARED))
    for format_ in ROWS:
        for _ in range(30):
            damaged = damage_row(rng, format_)
            outcome = prepared(tmp_path, tokenizer, {"rows.jsonl": f"{damaged}\n{damaged}\n".encode()})
            assert isinstance(outcome, Prepared) or re.search(r"rows\.jsonl:1[:,] ", str(outcome)), damaged


@pytest.mark.parametrize("format_", ROWS)
def test_tables_with_columns_of_another_type_name_their_rows(tmp_path, make_tokenizer: MakeTokenizer, format_):
    rng, tokenizer = random.Random(format_), RowTokenizer(make_tokenizer(COMPARED))
    written = 0
    for number in range(40):
        try:
            row = json.loads(damage_row(rng, format_)) | {"extra": wrong_value(rng)}
            table = pa.Table.from_pylist([row] * 3)
            name, content = ("a.parquet", parquet(table)) if number % 2 else ("a.arrow", arrow(table))
        except (pa.ArrowException, ValueError, OverflowError, TypeError, RecursionError):
            continue  # no such table can be written

        written += 1
        outcome = prepared(tmp_path, tokenizer, {name: content})

        assert isinstance(outcome, Prepared) or names_its_place(str(outcome), name)
    assert written > 10


def test_damaged_rows_of_many_files_are_all_found_where_they_are_skipped(tmp_path, make_tokenizer: MakeTokenizer):
    rng, tokenizer = random.Random(5), RowTokenizer(make_tokenizer(COMPARED))
    lenient = STRICT.model_copy(update={"bad_rows": "skip", "max_bad_fraction": 1.0})
    sound = json.dumps(ROWS["messages"][0])
    for _ in range(20):
        files = {
            f"{number}.jsonl": "\n".join([sound, damage_row(rng, "messages"), sound]).encode() for number in range(5)
        }

        outcome = prepared(tmp_path, tokenizer, files, lenient)

        assert isinstance(outcome, Prepared)
        bad = outcome.findings.first_bad_rows
        assert len(bad) == outcome.findings.bad_rows
        assert all(re.match(r"[0-4]\.jsonl:2: ", said) for said in bad)
        assert outcome.train.rows + len(bad) == 15
