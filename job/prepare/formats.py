"""Which format the rows have, and each row as what is to be learned."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from job.errors import BadData
from job.prepare.read import Row

Format = Literal["messages", "prompt-completion", "alpaca", "text"]
Message = dict[str, Any]

_ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class Chat:
    """A conversation. Trained: all assistant turns, or what follows the first *prompt_turns* messages."""

    messages: list[Message]
    prompt_turns: int | None


@dataclass(frozen=True)
class Text:
    """Plain text. Trained: what follows *prompt*, or everything when it is None."""

    prompt: str | None
    text: str


Example = Chat | Text


def recognise(row: Row, columns: Mapping[str, str], has_chat_template: bool) -> tuple[Format, str]:
    """The format of *row*, with the reason.

    Raises:
        BadData: no known column is there, or the format needs a chat template that the tokenizer lacks.
    """
    names = {known for known in _KNOWN if columns.get(known, known) in row.fields}
    for mapped, column in columns.items():
        if column not in row.fields:
            found = ", ".join(map(repr, row.fields))
            raise BadData(f"{row.where}: JOB_COLUMNS maps {mapped} to {column!r}, but the columns are {found}.")
    format_ = _first_format(names)
    if format_ is None:
        raise BadData(
            f"{row.where}: no known format in columns {', '.join(map(repr, row.fields))}.",
            "Map them: JOB_COLUMNS=prompt=question,completion=answer. Known: messages; prompt and completion; "
            "instruction, input and output; text.",
        )
    if format_ == "messages" and not has_chat_template:
        raise BadData(
            f"{row.where}: rows have 'messages', but the tokenizer of JOB_MODEL has no chat template.",
            "Use the model's instruct version, or rows with prompt and completion.",
        )
    return format_, "columns " + " and ".join(repr(columns.get(name, name)) for name in _NEEDS[format_])


_KNOWN = ("messages", "prompt", "completion", "instruction", "input", "output", "text")
_NEEDS: dict[Format, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt-completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "text": ("text",),
}


def _first_format(names: set[str]) -> Format | None:
    return next((format_ for format_, needs in _NEEDS.items() if names.issuperset(needs)), None)


def to_example(row: Row, format_: Format, columns: Mapping[str, str], has_chat_template: bool) -> Example:
    """*row* as what is to be learned.

    Raises:
        BadData: a column is missing or not of the expected kind.
    """

    def field(name: str) -> Any:
        return row.fields.get(columns.get(name, name))

    match format_:
        case "messages":
            messages = _messages(row, columns.get("messages", "messages"), field("messages"))
            if not any(message["role"] == "assistant" for message in messages):
                raise BadData(f"{row.where}: 'messages' has no assistant turn to learn from.")
            return Chat(messages, prompt_turns=None)
        case "prompt-completion" if isinstance(field("prompt"), list):
            prompt = _messages(row, "prompt", field("prompt"))
            return Chat(prompt + _messages(row, "completion", field("completion")), prompt_turns=len(prompt))
        case "prompt-completion":
            prompt_text = _string(row, columns.get("prompt", "prompt"), field("prompt"))
            return Text(
                prompt_text, prompt_text + _filled(row, columns.get("completion", "completion"), field("completion"))
            )
        case "alpaca":
            return _alpaca(row, columns, field, has_chat_template)
        case "text":
            return Text(None, _filled(row, columns.get("text", "text"), field("text")))


def _alpaca(row: Row, columns: Mapping[str, str], field: Any, has_chat_template: bool) -> Example:
    instruction = _filled(row, columns.get("instruction", "instruction"), field("instruction"))
    context = _string(row, columns.get("input", "input"), field("input") or "")
    output = _filled(row, columns.get("output", "output"), field("output"))
    if has_chat_template:
        request = f"{instruction}\n\n{context}" if context else instruction
        turns = [{"role": "user", "content": request}, {"role": "assistant", "content": output}]
        return Chat(turns, prompt_turns=1)
    given = f"### Input:\n{context}\n\n" if context else ""
    prompt = f"### Instruction:\n{instruction}\n\n{given}### Response:\n"
    return Text(prompt, prompt + output)


def _messages(row: Row, column: str, value: Any) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise BadData(f"{row.where}: {column!r} should be a list of messages, found {_describe(value)}.")
    return [_message(row, f"{column}[{index}]", message) for index, message in enumerate(value)]


def _message(row: Row, place: str, message: Any) -> Message:
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        raise BadData(
            f"{row.where}: {place} should be an object with 'role' and 'content', found {_describe(message)}."
        )
    if message["role"] not in _ROLES:
        raise BadData(f"{row.where}: {place} has role {message['role']!r}; expected {', '.join(_ROLES)}.")
    if not isinstance(message["content"], str):
        raise BadData(f"{row.where}: {place} has content {_describe(message['content'])}; expected a string.")
    return message


def _string(row: Row, column: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BadData(f"{row.where}: {column!r} should be a string, found {_describe(value)}.")
    return value


def _filled(row: Row, column: str, value: Any) -> str:
    if not _string(row, column, value).strip():
        raise BadData(f"{row.where}: {column!r} is empty, so there is nothing to learn.")
    return str(value)


def _describe(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
