"""Rows that say which answer is better, or whether one is good, as what is to be learned.

A prompt may stand in a column of its own, or be what both answers begin with.
"""

from typing import Any

from job.errors import BadData
from job.prepare.formats import (
    Answer,
    Chat,
    Example,
    Judged,
    Message,
    Pair,
    Reading,
    Text,
    describe,
    filled,
    messages_of,
    string_of,
    template_kwargs,
    to_answer,
    tools_of,
)
from job.prepare.read import Row
from job.records import Format

_LABELS = {"true": True, "false": False, "1": True, "0": False}  # a CSV file has only strings


def to_example(row: Row, format_: Format, reading: Reading) -> Example:
    """*row* as what is to be learned.

    Raises:
        BadData: a column is missing or not of the expected kind, or there is nothing to learn in it.
    """
    match format_:
        case "preference":
            return _pair(row, reading)
        case "unpaired-preference":
            answer = to_answer(row, "prompt-completion", reading)
            return Judged(_with_an_answer(row, reading.column("completion"), answer), _label(row, reading))
        case _:
            return to_answer(row, format_, reading)


def _pair(row: Row, reading: Reading) -> Pair:
    columns = [reading.column(name) for name in ("chosen", "rejected")]
    chosen, rejected = (row.fields.get(column) for column in columns)
    if chosen == rejected:
        raise BadData(f"{row.where}: {columns[0]!r} and {columns[1]!r} are equal, so neither is better.")
    if isinstance(chosen, list):
        return _chats(row, reading, columns)
    better, worse = (filled(row, column, row.fields.get(column)) for column in columns)
    asked = row.fields.get(reading.column("prompt"))
    if asked is None:
        shared = _shared_text(better, worse)
        return Pair(Text(better[:shared], better), Text(worse[:shared], worse))
    prompt = string_of(row, reading.column("prompt"), asked)
    return Pair(Text(prompt, prompt + better), Text(prompt, prompt + worse))


def _chats(row: Row, reading: Reading, columns: list[str]) -> Pair:
    better, worse = (messages_of(row, column, row.fields.get(column)) for column in columns)
    prompt = _asked(row, reading, better)
    if prompt is None:
        shared = _shared_messages(better, worse)
        prompt, better, worse = better[:shared], better[shared:], worse[shared:]
    if not prompt:
        raise BadData(
            f"{row.where}: {columns[0]!r} and {columns[1]!r} begin with different messages, and there is no prompt.",
            "Map it, as in JOB_COLUMNS=prompt=question.",
        )
    tools, variables = tools_of(row), template_kwargs(row)
    pair = [Chat(prompt + answer, len(prompt), tools, variables) for answer in (better, worse)]
    return Pair(*(_with_an_answer(row, column, chat) for column, chat in zip(columns, pair, strict=True)))


def _asked(row: Row, reading: Reading, answer: list[Message]) -> list[Message] | None:
    """The messages of the prompt's own column; None where *answer* begins with them. Some published sets have the
    question as a string beside conversations that hold it too."""
    column = reading.column("prompt")
    asked = row.fields.get(column)
    if isinstance(asked, str):
        return None if answer[0]["role"] != "assistant" else [{"role": "user", "content": asked}]
    return None if asked is None else messages_of(row, column, asked)


def _with_an_answer(row: Row, column: str, answer: Answer) -> Answer:
    if isinstance(answer, Chat):
        turns = answer.messages[answer.prompt_turns or 0 :]
        if not any(turn["role"] == "assistant" for turn in turns):
            raise BadData(f"{row.where}: {column!r} has no assistant turn, so there is no answer to judge.")
    return answer


def _shared_text(one: str, other: str) -> int:
    """Characters of the prompt that *one* and *other* begin with; a space before the answers is theirs (trl 1.16,
    data_utils.py, extract_prompt)."""
    shortest = min(len(one), len(other))
    shared = next((place for place in range(shortest) if one[place] != other[place]), shortest - 1)
    return shared - 1 if shared and one[shared - 1] == " " and one[shared] != other[shared] else shared


def _shared_messages(one: list[Message], other: list[Message]) -> int:
    shortest = min(len(one), len(other))
    return next((place for place in range(shortest) if one[place] != other[place]), shortest - 1)


def _label(row: Row, reading: Reading) -> bool:
    column = reading.column("label")
    value: Any = row.fields.get(column)
    label = _LABELS.get(str(value).lower()) if isinstance(value, bool | int | str) else None
    if label is None:
        raise BadData(f"{row.where}: {column!r} should be true or false, found {describe(value)}.")
    return label
