"""Rows out of files of every format, and out of files that are broken, hostile or endless."""

import datetime
import gzip
import io
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from job.errors import BadData
from job.prepare.lines import RECORD_LIMIT
from job.prepare.read import Row, read_rows
from job.records import DataFile
from tests.tiny import ROOT

Content = str | bytes
ROWS = [{"text": "größe", "n": {"of": [1, 2]}}, {"text": "b\n\u2028\0", "n": {"of": []}}]


def zst(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def arrow(table: pa.Table, writer: Callable[..., pa.ipc.RecordBatchStreamWriter], **options: object) -> bytes:
    sink = io.BytesIO()
    with writer(sink, table.schema, **options) as stream:
        stream.write_table(table)
    return sink.getvalue()


def parquet(table: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pa.parquet.write_table(table, sink, **options)
    return sink.getvalue()


def file_of(tmp_path: Path, content: Content, name: str = "rows.jsonl") -> DataFile:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return DataFile(path=path, name=name, identity="")


def read(tmp_path: Path, content: Content, name: str = "rows.jsonl") -> list[Row | BadData]:
    """What reading yields, and at the end what it raises."""
    found: list[Row | BadData] = []
    try:
        found.extend(read_rows((file_of(tmp_path, content, name),)))
    except BadData as problem:
        found.append(problem)
    return found


def test_every_nested_format_gives_the_same_rows(tmp_path):
    table, lines = pa.Table.from_pylist(ROWS), "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    contents = {
        "a.jsonl": lines,
        "a.json": json.dumps(ROWS, indent=2).encode(),
        "a.jsonl.gz": gzip.compress(lines),
        "b.jsonl.gz": gzip.compress(lines[:30]) + gzip.compress(lines[30:]),
        "a.jsonl.zst": zst(lines),
        "b.jsonl.zst": zst(lines[:30]) + zst(lines[30:]),
        "a.json.gz": gzip.compress(json.dumps(ROWS).encode()),
        "a.parquet": parquet(table),
        "a.arrow": arrow(table, pa.ipc.new_stream),
        "b.arrow": arrow(table, pa.ipc.new_file),
    }
    for name, content in contents.items():
        assert [row.fields for row in read(tmp_path, content, name)] == ROWS, name


def test_what_the_datasets_library_saves_is_read(tmp_path):
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    (path,) = (tmp_path / "saved").glob("*.arrow")

    rows = list(read_rows((DataFile(path=path, name="x.arrow", identity=""),)))

    assert rows == [Row(f"x.arrow:row {number}", fields) for number, fields in enumerate(ROWS, start=1)]


def test_an_array_is_read_across_the_borders_of_its_chunks(tmp_path):
    rows = [{"text": "ü" * size} for size in (1, 2**18, 3 * 2**18, 7, 0)] * 2

    assert [row.fields for row in read(tmp_path, json.dumps(rows, ensure_ascii=False), "a.json")] == rows
    assert read(tmp_path, " [ ] \n", "b.json") == []


def test_fields_of_csv_may_hold_documents_and_line_ends(tmp_path):
    document = 'a "quoted"\r\nü,\n' * 100_000
    quoted = document.replace('"', '""')

    first, last = read(tmp_path, f'\ufeffprompt,completion\r\n"{quoted}",x\r\n\r\ny,z', "rows.csv")

    assert first.fields == {"prompt": document, "completion": "x"}
    assert last == Row("rows.csv:200004", {"prompt": "y", "completion": "z"})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "a", "x": {"b": 1, "b": 2}}', "key 'b' appears twice"),
        ('{"text": NaN}', "NaN is not JSON"),
        ('{"text": -Infinity}', "-Infinity is not JSON"),
        ('{"text": 1e999}', "the number 1e999 is too large"),
        ('{"text": ' + "9" * 5000 + "}", "too many digits"),
        ('{"text": "\\ud800"}', "half of a surrogate pair"),
        ('{"text": ' + "[" * 200 + "]" * 200 + "}", "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"text": "a\0b"}', "not valid JSON"),
        ("\0" * 100, "not valid JSON"),
        ('{"text": "a"} {"text": "b"}', "Extra data"),
        ("\ufeff{}", "Unexpected UTF-8 BOM|not valid JSON"),
        ("PK\x03\x04", "not valid JSON"),
        (b'{"text": "\xc3\x28"}', "byte 10 is not valid UTF-8"),
        (b'{"text": "\xed\xa0\x80"}', "not valid UTF-8"),
        ("null", "expected an object, found NoneType"),
        ('{"text": "' + "x" * RECORD_LIMIT, "the line is longer than 16 MiB"),
    ],
)
def test_a_hostile_line_is_named_and_the_next_one_read(tmp_path, line, reason):
    raw = line.encode() if isinstance(line, str) else line

    good, bad, last = read(tmp_path, b'{"text": "a"}\r\n' + raw + b'\n{"text": "b"}')

    assert isinstance(good, Row)
    assert isinstance(bad, BadData)
    assert any(words in str(bad) for words in reason.split("|"))
    assert str(bad).startswith("rows.jsonl:2: ")
    assert len(str(bad)) < 300
    assert last == Row("rows.jsonl:3", {"text": "b"})


def test_a_line_of_exactly_the_limit_is_read(tmp_path):
    line = '{"text": "' + "x" * (RECORD_LIMIT - 12) + '"}'

    (row,) = read(tmp_path, line + "\n")

    assert isinstance(row, Row)
    assert len(line) == RECORD_LIMIT


@pytest.mark.parametrize("nested", ['{"a": ' * 90 + "1" + "}" * 90, '{"a": "' + "[{" * 500 + '"}'])
def test_brackets_alone_are_no_depth(tmp_path, nested):
    assert isinstance(read(tmp_path, nested)[0], Row)


@pytest.mark.parametrize(
    ("content", "rows", "reason"),
    [
        ('[{"a": 1}, {"a": 1, "a": 2}, {"b": 3}]', 2, "rows.json:row 2: key 'a' appears twice"),
        ('[{"a": 1}, 7, {"b": 3}]', 2, "rows.json:row 2: expected an object, found int"),
        ('[{"a": 1}, {"b"', 1, "rows.json:row 2: not valid JSON"),
        ('[{"a": 1}, ', 1, "rows.json:row 2: not valid JSON"),
        ('[{"a": 1}', 1, "ends inside its JSON array"),
        ("[", 0, "ends inside its JSON array|not valid JSON"),
        ('[{"a": 1},]', 1, "rows.json:row 2: not valid JSON"),
        ('[{"a": 1} {"a": 1}]', 1, "expected ']' in the JSON array, found '{'"),
        ('[{"a": 1}] [{"b": 1}]', 1, "more after the end of the array"),
        ('[{"a": ' + "9" * 5000 + "}]", 0, "too many digits"),
        ("[" * 100_000, 0, "nested too deeply"),
        ("[" * 150 + "]" * 150, 0, "nested too deeply"),
        (b'[{"a": 1}, {"a": "\xff"}]', 0, "near byte 18 the text is not valid UTF-8"),
        ('[{"a": "' + "x" * 2 * RECORD_LIMIT, 0, "row 1: the element is longer than 16 MiB"),
    ],
)
def test_a_hostile_array_is_refused_from_where_it_goes_wrong(tmp_path, content, rows, reason):
    found = read(tmp_path, content, "rows.json")

    (problem,) = (str(item) for item in found if isinstance(item, BadData))
    assert sum(isinstance(item, Row) for item in found) == rows
    assert any(words in problem for words in reason.split("|"))
    assert problem.startswith("rows.json")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a,a\n1,2\n", "rows.csv:1: column 'a' appears twice"),
        ("a,b\n1\n", "rows.csv:2: expected 2 columns, found 1"),
        ("a,b\n1,2,3\n", "rows.csv:2: expected 2 columns, found 3"),
        ('a,b\n"1"x,2\n', "rows.csv:2: ',' expected after '\"'"),
        ('a,b\n"1,2\n3,4\n', "rows.csv:3: unexpected end of data"),
        ("a,b\n1,\0\n", "rows.csv:2: there is a NUL byte"),
        (b"a,b\n1,\xff\n", "rows.csv:2: byte 2 is not valid UTF-8"),
        ("a,b\n1,2\r3,4\n", "rows.csv:2: new-line character"),
        ("a\n" + "x" * (RECORD_LIMIT + 1), "rows.csv:2: the record is longer than 16 MiB"),
        ('a\n"' + ("x" * 999 + "\n") * 17_000, "the record is longer than 16 MiB"),
    ],
)
def test_hostile_csv_is_named_with_its_line(tmp_path, content, reason):
    assert reason in str(read(tmp_path, content, "rows.csv")[-1])


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl.zst", "rows.csv.gz", "rows.json.zst"])
def test_compressed_data_that_is_cut_off_or_damaged_is_refused(tmp_path, name):
    whole = (gzip.compress if name.endswith(".gz") else zst)(b'{"text": "a"}\n' * 9999)
    for content in (b"", whole[:3], whole[: len(whole) // 2], whole[:-3], whole + b"more", b"plain text"):
        assert f"{name} cannot be decompressed" in str(read(tmp_path, content, name)[-1])


def test_compressed_nothing_has_no_rows(tmp_path):
    assert read(tmp_path, gzip.compress(b""), "a.jsonl.gz") == read(tmp_path, zst(b""), "a.jsonl.zst") == []


@pytest.mark.parametrize("name", ["rows.parquet", "rows.arrow"])
@pytest.mark.parametrize("content", [b"", b"PAR1", b"ARROW1\0\0", b"\xff\xff\xff\xff\x00\x00\x00\x7f", b"{}\n" * 99])
def test_a_table_that_is_none_is_refused(tmp_path, name, content):
    (problem,) = read(tmp_path, content, name)

    assert f"{name} is not readable" in str(problem)


def test_a_column_that_appears_twice_is_refused(tmp_path):
    table = pa.table([pa.array(["x"]), pa.array(["y"])], names=["text", "text"])

    for name, content in (("a.parquet", parquet(table)), ("a.arrow", arrow(table, pa.ipc.new_stream))):
        assert f"{name}: column 'text' appears twice" in str(read(tmp_path, content, name)[0])


def test_a_value_that_python_cannot_hold_is_named_with_its_row(tmp_path):
    raw = pa.array([b"a", b"\xff", b"c"])
    text = pa.StringArray.from_buffers(3, *raw.buffers()[1:])

    first, bad, last = read(tmp_path, parquet(pa.table({"text": text})), "a.parquet")

    assert (first.fields, last.fields) == ({"text": "a"}, {"text": "c"})
    assert "a.parquet:row 2 cannot be read" in str(bad)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_row_of_a_table_is_bounded_as_a_line_is(tmp_path, name):
    table = pa.table({"text": ["x", "y" * (RECORD_LIMIT + 1), "z"]})

    first, bad, last = read(tmp_path, parquet(table) if name == "a.parquet" else arrow(table, pa.ipc.new_file), name)

    assert (first.fields, last.fields) == ({"text": "x"}, {"text": "z"})
    assert f"{name}:row 2 cannot be read (it is longer than 16 MiB)" in str(bad)


def test_offsets_that_point_out_of_an_arrow_file_are_refused(tmp_path):
    content = arrow(pa.table({"text": ["abcde", "fgh"]}), pa.ipc.new_stream)
    offsets = b"\0\0\0\0\5\0\0\0\x08\0\0\0"
    assert content.count(offsets) == 1

    (problem,) = read(tmp_path, content.replace(offsets, offsets[:-1] + b"\x40"), "a.arrow")

    assert "a.arrow is not readable Arrow" in str(problem)


def damaged(rng: random.Random, data: bytes) -> bytes:
    """*data* with a few bits flipped, bytes inserted or removed, or its end cut off."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(result) + 1)
        match rng.randrange(4):
            case 0 if at < len(result):
                result[at] ^= 1 << rng.randrange(8)
            case 1:
                result[at:at] = rng.randbytes(rng.choice((1, 4, 50)))
            case 2:
                del result[at : at + rng.choice((1, 4, 50))]
            case _:
                del result[at:]
    return bytes(result)


def test_whatever_happens_to_a_file_reading_ends_in_rows_or_in_a_problem_that_names_it(tmp_path):
    rows = [{"text": f"row {n} größe", "n": n, "m": [{"role": "user", "at": None}]} for n in range(30)]
    table, lines = pa.Table.from_pylist(rows), "".join(json.dumps(row) + "\n" for row in rows).encode()
    table = table.append_column("at", pa.array([datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)] * 30))
    array = json.dumps(rows, indent=1, ensure_ascii=False).encode()
    csv = ("text,n\n" + "".join(f'"row ""{n}"" größe",{n}\n' for n in range(30))).encode()
    packed = pa.ipc.IpcWriteOptions(compression="zstd")
    seeds = {
        "a.jsonl": lines, "a.json": array, "a.csv": csv, "a.jsonl.gz": gzip.compress(lines), "a.jsonl.zst": zst(lines),
        "a.json.gz": gzip.compress(array), "a.csv.zst": zst(csv), "a.parquet": parquet(table),
        "b.parquet": parquet(table, compression="none", use_dictionary=False),
        "a.arrow": arrow(table, pa.ipc.new_stream), "b.arrow": arrow(table, pa.ipc.new_file),
        "c.arrow": arrow(table, pa.ipc.new_stream, options=packed),
    }  # fmt: skip
    rng = random.Random(20)
    whole = 0
    for number in range(4800):
        name = list(seeds)[number % len(seeds)]
        found = read(tmp_path, damaged(rng, seeds[name]), name)
        assert all(isinstance(item, Row) or str(item).startswith(name) for item in found)
        whole += all(isinstance(item, Row) for item in found)
    assert 0 < whole < 2000  # the damage was real, and not always fatal


MEASURE = """
import re, sys
from pathlib import Path
from job.errors import BadData
from job.prepare.read import read_rows
from job.records import DataFile
import pyarrow.parquet

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

path = Path(sys.argv[1])
before = peak = anonymous()
count = 0
try:
    for count, row in enumerate(read_rows((DataFile(path=path, name=path.name, identity=""),)), start=1):
        if count % 200 == 0 or isinstance(row, BadData):
            peak = max(peak, anonymous())
except BadData as problem:
    count = problem
print(max(peak, anonymous()) - before, count)
"""
ROW_OF_2_KB = b'{"prompt": "' + b"x" * 1000 + b'", "completion": "' + b"y" * 1000 + b'"}'


def write_rows(path: Path) -> str:
    path.write_bytes((ROW_OF_2_KB + b"\n") * 100_000)
    return "100000"


def write_array(path: Path) -> str:
    path.write_bytes(b"[" + (ROW_OF_2_KB + b",\n") * 99_999 + ROW_OF_2_KB + b"]")
    return "100000"


def write_line(path: Path) -> str:
    with path.open("wb") as file:
        file.truncate(200 * 2**20)
    return "1"


def write_bomb(path: Path) -> str:
    with gzip.open(path, "wb", 1) if path.suffix == ".gz" else pa.output_stream(path, compression="zstd") as file:
        for _ in range(200):
            file.write(b" " * 2**20)
    return "cannot be read" if path.suffix == ".csv" else ""


def write_table(path: Path) -> str:
    table = pa.table({"text": pa.array(str(number) * 400 for number in range(100_000))})
    path.write_bytes(parquet(table) if path.suffix == ".parquet" else arrow(table, pa.ipc.new_stream))
    return "100000"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.jsonl", write_rows),
        ("a.json", write_array),
        ("b.jsonl", write_line),
        ("b.csv", write_line),
        ("a.jsonl.gz", write_bomb),
        ("a.jsonl.zst", write_bomb),
        ("a.parquet", write_table),
        ("a.arrow", write_table),
    ],
)
def test_memory_does_not_grow_with_the_file(tmp_path, name, write):
    count = write(tmp_path / name)

    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / name)], cwd=ROOT, capture_output=True, text=True, check=True
    )

    growth_mib, _, found = done.stdout.partition(" ")
    assert int(growth_mib) < 64, done.stdout
    assert found.strip() == count or f"{name}" in found or count == ""
