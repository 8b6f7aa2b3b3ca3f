"""Data sets in every format, and ways in which files and rows are damaged on their way to a job."""

import gzip
import io
import json
import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet

Fields = dict[str, Any]

_CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
# What a row looks like in each format, with the paths of the fields that a writer gets wrong.
ROWS: dict[str, tuple[Fields, list[tuple[Any, ...]]]] = {
    "messages": (
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "größe 🌍?"},
                {"role": "assistant", "content": "", "tool_calls": [_CALL]},
                {"role": "tool", "name": "f", "content": "5"},
                {"role": "assistant", "content": "5 m"},
            ],
            "tools": [{"type": "function", "function": {"name": "f"}}],
        },
        [
            ("messages",), ("messages", 1), ("messages", 4), ("messages", 1, "role"), ("messages", 4, "role"),
            ("messages", 1, "content"), ("messages", 4, "content"), ("messages", 2, "tool_calls"),
            ("messages", 2, "tool_calls", 0), ("messages", 2, "tool_calls", 0, "function"),
            ("messages", 2, "tool_calls", 0, "function", "arguments"), ("tools",), ("tools", 0),
        ],
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "日本語"}]},
        [("conversations",), ("conversations", 0), ("conversations", 0, "from"), ("conversations", 1, "value")],
    ),
    "chat": (
        {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
        [("prompt",), ("completion",), ("prompt", 0), ("completion", 0, "role"), ("completion", 0, "content")],
    ),
    "strings": ({"prompt": "a", "completion": "b"}, [("prompt",), ("completion",)]),
    "alpaca": ({"instruction": "a", "input": "b", "output": "c"}, [("instruction",), ("input",), ("output",)]),
    "text": ({"text": "größe"}, [("text",)]),
}  # fmt: skip
_NUMBERS = ["9" * 4300, "9" * 5000, "1e999", "-1e-999", "0x1", "01", "NaN", "-"]
_BYTES = [b"\0", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n", b'"', b"\xed\xa0\x80", b"\\ud800"]
_SYNTAX = [b"[", b"{", b"[[", b"}", b",", b"\\", b"NaN", b"9" * 5000]
ROLES = ["assistent", "", "Assistant", "user", "assistant", "system", "tool", "\0", "user\n"]


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def wrong_value(rng: random.Random) -> Any:
    """Anything that stands where text, a list or an object should."""
    return rng.choice(
        [
            None, True, 0, -1, 3.5, 1e308, 10**400, 10**4299, float("nan"), float("-inf"),
            [], {}, [[]], [None], [{}], [""], [3], ["a"] * 99, deep(20), deep(98), deep(120), {"": ""},
            {"role": "user"}, {"role": "user", "content": None}, {"content": "x"}, {"function": 3},
            {"function": {"name": None, "arguments": "{"}}, "", " ", "null", "[{]", "\0", "\ud800", "\udfff\ud800",
            "\ufeff", "\ufffe", "x" * 9999, "</s>" * 99, "<s>assistant\n", *ROLES,
        ]
    )  # fmt: skip


def damage_row(rng: random.Random, format_: str) -> str:
    """A row of *format_* as JSON, with one or two fields of another type, gone, doubled or out of order."""
    row, paths = ROWS[format_]
    row = json.loads(json.dumps(row))
    for _ in range(rng.choice((1, 1, 2))):
        *parents, last = rng.choice(paths)
        holder: Any = row
        for step in parents:
            try:
                holder = holder[step]
            except (KeyError, IndexError, TypeError):  # the first damage has removed it
                break
        else:
            _damage_field(rng, holder, last)
    text = json.dumps(row)
    match rng.randrange(12):
        case 0:  # a key twice
            return "{" + text[1:-1] + ", " + text[1:]
        case 1:
            return (
                text[:-1] + f', "n": {rng.choice(("9" * 5000, "1e999", "-1e-999", "9" * 4300, "0x1", "01", "NaN"))}}}'
            )
        case 2:
            return text[:-1] + ', "deep": ' + "[" * (levels := rng.choice((50, 150, 5000))) + "]" * levels + "}"
    return text


def _damage_field(rng: random.Random, holder: Any, field: Any) -> None:
    try:
        match rng.randrange(6):
            case 0 if isinstance(holder, dict):
                del holder[field]
            case 1 if isinstance(holder.get(field) if isinstance(holder, dict) else None, list):
                rng.shuffle(holder[field])
            case 2 if isinstance(holder, list):
                holder.insert(rng.randrange(len(holder) + 1), holder[rng.randrange(len(holder))])
            case 3 if field in ("role", "from"):
                holder[field] = rng.choice(ROLES)
            case _:
                holder[field] = wrong_value(rng)
    except (KeyError, IndexError, TypeError):
        pass  # the first damage has removed it


def damage_bytes(rng: random.Random, data: bytes) -> bytes:
    """*data* with bits flipped, bytes put in, taken out or doubled, or its end cut off."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(result) + 1)
        size = rng.choice((1, 4, 50))
        match rng.randrange(7):
            case 0 if at < len(result):
                result[at] ^= 1 << rng.randrange(8)
            case 1:
                result[at:at] = rng.randbytes(size)
            case 2:
                del result[at : at + size]
            case 3:
                result[at:at] = result[at : at + rng.choice((1, 50, 300))]
            case 4:
                result[at:at] = rng.choice(
                    (b"\0", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n", b'"', b"\xed\xa0\x80", b"\\ud800")
                )
            case 5:
                result[at:at] = rng.choice(_SYNTAX)
            case _:
                del result[at:]
    return bytes(result)


def zst(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink, **options)
    return sink.getvalue()


def arrow(table: pa.Table, writer: Callable[..., Any] = pa.ipc.new_stream) -> bytes:
    sink = io.BytesIO()
    with writer(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


def whole_files(rows: int = 6) -> dict[str, bytes]:
    """A sound file of each kind, by its name."""
    chats = [ROWS["messages"][0]] * rows
    pairs = [{"prompt": f'a "{number}"\nb', "completion": "größe"} for number in range(rows)]
    lines = "".join(json.dumps(row) + "\n" for row in chats).encode()
    array = json.dumps(chats, indent=1, ensure_ascii=False).encode()
    csv = ("prompt,completion\n" + "".join(f'"a ""{n}""\nb",größe\n' for n in range(rows))).encode()
    table, flat = pa.Table.from_pylist(chats), pa.Table.from_pylist(pairs)
    return {
        "a.jsonl": lines, "a.json": array, "a.csv": csv, "a.jsonl.gz": gzip.compress(lines), "a.jsonl.zst": zst(lines),
        "a.json.gz": gzip.compress(array), "a.csv.zst": zst(csv), "a.parquet": parquet(table),
        "b.parquet": parquet(flat, compression="none", use_dictionary=False), "a.arrow": arrow(table),
        "b.arrow": arrow(flat, pa.ipc.new_file),
    }  # fmt: skip
