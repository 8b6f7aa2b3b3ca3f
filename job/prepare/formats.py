"""Which format the rows have, and each row as what is to be learned.

Names are those of TRL's dataset formats, with ShareGPT and alpaca beside them.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from job.errors import BadData
from job.methods import METHODS
from job.prepare.read import Row
from job.records import Format

Message = dict[str, Any]

_ROLES = ("system", "developer", "user", "assistant", "tool")
# ShareGPT names its speakers freely; these are the spellings that published sets use.
_SHAREGPT_ROLES = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant",
    "bing": "assistant", "bard": "assistant", "model": "assistant", "assistant": "assistant", "tool": "tool",
    "observation": "tool", "function": "tool",
}  # fmt: skip
# Columns that each format needs, the most telling first: a row with chosen and rejected is a preference whatever else
# it has.
_NEEDS: dict[Format, tuple[str, ...]] = {
    "preference": ("chosen", "rejected"),
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "unpaired-preference": ("prompt", "completion", "label"),
    "prompt-completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "text": ("text",),
    "prompt-only": ("prompt",),
}


@dataclass(frozen=True)
class Chat:
    """A conversation. Trained: all assistant turns, or what follows the first *prompt_turns* messages."""

    messages: list[Message]
    prompt_turns: int | None
    tools: list[Any] | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Text:
    """Plain text. Trained: what follows *prompt*, or everything when it is None."""

    prompt: str | None
    text: str


Answer = Chat | Text


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt: *chosen* is better than *rejected*."""

    chosen: Answer
    rejected: Answer


@dataclass(frozen=True)
class Judged:
    """An answer that is good or bad."""

    answer: Answer
    is_good: bool


Example = Answer | Pair | Judged


def answers(example: Example) -> tuple[Answer, ...]:
    """Every answer of *example*, each with its prompt."""
    if isinstance(example, Pair):
        return example.chosen, example.rejected
    return (example.answer if isinstance(example, Judged) else example,)


@dataclass(frozen=True)
class Reading:
    """How rows are to be read: the settings, and whether the tokenizer has a chat template besides the default."""

    columns: Mapping[str, str]
    format: Format | None  # None: recognise it
    response_template: str | None
    has_chat_template: bool
    method: str = "sft"

    def column(self, name: str) -> str:
        """What the data calls *name*."""
        return self.columns.get(name, name)


def recognise(row: Row, reading: Reading) -> tuple[Format, str]:
    """The format of *row*, with the reason.

    Raises:
        BadData: no known column is there, or the format cannot be trained on as things are.
    """
    for mapped, column in reading.columns.items():
        if column not in row.fields:
            raise BadData(f"{row.where}: JOB_COLUMNS maps {mapped} to {column!r}, but the columns are {_names(row)}.")
    format_ = reading.format or _by_columns(row, reading)
    if format_ is None:
        raise BadData(
            f"{row.where}: no known format in columns {_names(row)}.",
            "Map them: JOB_COLUMNS=prompt=question,completion=answer. Known: messages; conversations; prompt and "
            "completion; instruction, input and output; text; chosen and rejected.",
        )
    method = METHODS[reading.method]
    if format_ not in method.formats:
        others = [name for name, other in METHODS.items() if format_ in other.formats]
        raise BadData(
            f"{row.where}: the rows are of format {format_!r}, which JOB_METHOD={reading.method} cannot learn from; it "
            f"needs {' or '.join(map(repr, method.formats))}.",
            f"Map the columns, as in {method.mapped}, or set JOB_FORMAT"
            + (f"; or set JOB_METHOD={' or '.join(others)}." if others else "."),
        )
    return format_, _reason(format_, reading)


def _reason(format_: Format, reading: Reading) -> str:
    if reading.format:
        return f"JOB_FORMAT={format_}"
    return "columns " + " and ".join(repr(reading.column(name)) for name in _NEEDS[format_])


def _by_columns(row: Row, reading: Reading) -> Format | None:
    for format_, needs in _NEEDS.items():
        if all(reading.column(name) in row.fields for name in needs):
            return _dialect(row, reading, format_)
    return None


def _dialect(row: Row, reading: Reading, format_: Format) -> Format:
    """ShareGPT is told from messages by its keys, not by the column's name: both names are used for both."""
    if format_ not in ("messages", "sharegpt"):
        return format_
    turns = row.fields[reading.column("messages" if format_ == "messages" else "conversations")]
    first = turns[0] if isinstance(turns, list) and turns else {}
    if isinstance(first, dict) and "from" in first:
        return "sharegpt"
    return "messages" if isinstance(first, dict) and "role" in first else format_


def to_answer(row: Row, format_: Format, reading: Reading) -> Answer:
    """*row*, which holds one answer or conversation, as what is to be learned.

    Raises:
        BadData: a column is missing or not of the expected kind, or there is nothing to learn in it.
    """

    def field(name: str) -> Any:
        return row.fields.get(reading.column(name))

    match format_:
        case "messages" | "sharegpt":
            return _conversation(row, format_, reading)
        case "prompt-completion" if isinstance(field("prompt"), list):
            prompt = messages_of(row, reading.column("prompt"), field("prompt"))
            answer = messages_of(row, reading.column("completion"), field("completion"))
            return Chat(prompt + answer, len(prompt), tools_of(row), template_kwargs(row))
        case "prompt-completion":
            question = string_of(row, reading.column("prompt"), field("prompt"))
            return Text(question, question + filled(row, reading.column("completion"), field("completion")))
        case "alpaca":
            return _alpaca(row, reading)
        case _:
            return _text(row, reading)


def read_prompt(row: Row, reading: Reading) -> Answer:
    """The prompt of a row that has nothing else.

    Raises:
        BadData: it is neither a text nor a conversation.
    """
    column = reading.column("prompt")
    prompt = row.fields.get(column)
    if isinstance(prompt, list):
        return Chat(messages_of(row, column, prompt), None, tools_of(row), template_kwargs(row))
    text = filled(row, column, prompt)
    return Text(text, text)


def _conversation(row: Row, format_: Format, reading: Reading) -> Chat:
    column = reading.column("messages")
    if column not in row.fields:
        column = reading.column("conversations")
    turns = row.fields.get(column)
    messages = messages_of(row, column, _from_sharegpt(row, column, turns) if format_ == "sharegpt" else turns)
    if not METHODS[reading.method].draws and not any(message["role"] == "assistant" for message in messages):
        raise BadData(f"{row.where}: {column!r} has no assistant turn to learn from.")
    return Chat(messages, None, tools_of(row), template_kwargs(row))


def _from_sharegpt(row: Row, column: str, turns: Any) -> Any:
    if not isinstance(turns, list):
        return turns
    messages = []
    for index, turn in enumerate(turns):
        place = f"{column}[{index}]"
        if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
            raise BadData(f"{row.where}: {place} should be an object with 'from' and 'value', found {describe(turn)}.")
        role = _SHAREGPT_ROLES.get(str(turn["from"]).lower())
        if role is None:
            raise BadData(f"{row.where}: {place} is from {turn['from']!r}; expected {', '.join(_SHAREGPT_ROLES)}.")
        messages.append({"role": role, "content": turn["value"]})
    return messages


def _alpaca(row: Row, reading: Reading) -> Answer:
    fields, column = row.fields, reading.column
    instruction = filled(row, column("instruction"), fields.get(column("instruction")))
    context = string_of(row, column("input"), fields.get(column("input")) or "")
    output = filled(row, column("output"), fields.get(column("output")))
    if reading.has_chat_template:
        request = f"{instruction}\n\n{context}" if context else instruction
        turns = [{"role": "user", "content": request}, {"role": "assistant", "content": output}]
        return Chat(turns, prompt_turns=1)
    given = f"### Input:\n{context}\n\n" if context else ""
    prompt = f"### Instruction:\n{instruction}\n\n{given}### Response:\n"
    return Text(prompt, prompt + output)


def _text(row: Row, reading: Reading) -> Text:
    column = reading.column("text")
    text = filled(row, column, row.fields.get(column))
    if reading.response_template is None:
        return Text(None, text)
    before, mark, answer = text.rpartition(reading.response_template)
    if not mark:
        raise BadData(f"{row.where}: {column!r} does not contain JOB_RESPONSE_TEMPLATE={reading.response_template!r}.")
    if not answer.strip():
        raise BadData(f"{row.where}: nothing follows JOB_RESPONSE_TEMPLATE in {column!r}.")
    return Text(before + mark, text)


def template_kwargs(row: Row) -> Mapping[str, Any]:
    """Variables for the chat template, such as ``enable_thinking``, in the column that TRL reads them from."""
    kwargs = row.fields.get("chat_template_kwargs") or {}
    if not isinstance(kwargs, dict):
        raise BadData(f"{row.where}: 'chat_template_kwargs' should be an object, found {describe(kwargs)}.")
    return kwargs


def tools_of(row: Row) -> list[Any] | None:
    """The row's tool definitions: a list, or JSON of one, as TRL takes them."""
    tools = row.fields.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise BadData(f"{row.where}: 'tools' is not valid JSON ({error}).") from error
    if tools is not None and not isinstance(tools, list):
        raise BadData(f"{row.where}: 'tools' should be a list of tool definitions, found {describe(tools)}.")
    return tools or None


def messages_of(row: Row, column: str, value: Any) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise BadData(f"{row.where}: {column!r} should be a list of messages, found {describe(value)}.")
    return [_message(row, f"{column}[{index}]", message) for index, message in enumerate(value)]


def _message(row: Row, place: str, message: Any) -> Message:
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    if not isinstance(message, dict) or "role" not in message or not ("content" in message or calls):
        raise BadData(f"{row.where}: {place} should be an object with 'role' and 'content', found {describe(message)}.")
    if message["role"] not in _ROLES:
        raise BadData(f"{row.where}: {place} has role {message['role']!r}; expected {', '.join(_ROLES)}.")
    content = message.get("content")
    if not isinstance(content, str) and not (content is None and calls):
        raise BadData(f"{row.where}: {place} has content {describe(content)}; expected a string.")
    # Parquet gives every message all columns of the file: what is null was not there.
    return {key: value for key, value in message.items() if value is not None}


def string_of(row: Row, column: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BadData(f"{row.where}: {column!r} should be a string, found {describe(value)}.")
    return value


def filled(row: Row, column: str, value: Any) -> str:
    if not string_of(row, column, value).strip():
        raise BadData(f"{row.where}: {column!r} is empty, so there is nothing to learn.")
    return str(value)


def describe(value: Any) -> str:
    """*value* with its type, short enough for a sentence."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _names(row: Row) -> str:
    return ", ".join(map(repr, row.fields))


def oddities(chat: Chat) -> Iterable[str]:
    """What is unusual about a conversation without making it useless."""
    roles = [message["role"] for message in chat.messages]
    if "system" in roles[1:]:
        yield "system turn after the first"
    talk = [role for role in roles if role not in ("system", "developer", "tool")]
    if any(one == two for one, two in pairwise(talk)) and "tool" not in roles:
        yield "the same role twice in a row"
    if talk and talk[0] == "assistant":
        yield "begins with the assistant"
    if roles[-1] != "assistant":
        yield "ends without an answer"
    if any(not message.get("content", "").strip() and not message.get("tool_calls") for message in chat.messages):
        yield "empty turn"
