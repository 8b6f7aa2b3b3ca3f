"""Every chat template with every conversation, prepared by the job and by TRL, and why some of it differs."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.worker.side_by_side import Fields, ours_one_by_one, theirs_one_by_one, trained
from tests.worker.templates import CALLS, CHATS, FOLDER, GIVEN, HANDED_OVER, NAMES, REWRITTEN, write_tokenizer

CONVERSATIONS = CHATS | CALLS
FORMS = ("messages", "prompt-completion")
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "mul",
            "description": "Multiply.",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer", "description": "A factor."}},
                "required": ["a"],
            },
        },
    }
]
# Templates of vision models want contents as lists of parts; the job finds that out, TRL needs them so.
_PARTS = {"idefics3", "llava_next", "smolvlm"}
_NO_MARKS = "TRL has no marks for this template and refuses to train the assistant's turns alone"
SPLIT_CHARACTER = "A turn ends in a character of several tokens, of which TRL's mask holds the first"
_LOST = "The template loses the call, its words or the answer to it: there is nothing true to learn"
_TEXT_ONLY = "The model's own template takes arguments as text only; TRL's training template takes both"


@dataclass(frozen=True)
class Compared:
    """One conversation in one template. A text in place of a row is the reason why it was refused."""

    template: str
    chat: str
    theirs: Fields | str
    ours: Fields | str
    tokenizer: Path

    @property
    def equal(self) -> bool:
        """Refusing alike counts: what a template cannot render is nobody's row."""
        if isinstance(self.ours, str) or isinstance(self.theirs, str):
            return isinstance(self.ours, str) and isinstance(self.theirs, str)
        return self.ours == self.theirs

    @property
    def reason(self) -> str | None:
        """Why the two differ; None when no known reason holds."""
        if isinstance(self.theirs, str):
            return _NO_MARKS if "patching is not supported for this template" in self.theirs else None
        if isinstance(self.ours, str):
            return _refusal(self.ours)
        if self.theirs["input_ids"] != self.ours["input_ids"]:
            return REWRITTEN.get(self.template)
        theirs, ours = (trained(row, self.tokenizer) for row in (self.theirs, self.ours))
        if len(theirs) != len(ours):
            cut = "\N{REPLACEMENT CHARACTER}" in "".join(theirs) and "\N{REPLACEMENT CHARACTER}" not in "".join(ours)
            return SPLIT_CHARACTER if cut else None
        return self._other_ends(theirs, ours)

    def _other_ends(self, theirs: list[str], ours: list[str]) -> str | None:
        heads, reason = GIVEN.get(self.template, ((), None))
        if {more.removesuffix(own) for own, more in zip(ours, theirs, strict=True)} <= {*heads, ""}:
            return reason
        tail = HANDED_OVER.get(self.template, "\0")
        if all(own in (more, more + tail) for own, more in zip(ours, theirs, strict=True)):
            return "The model stops at the token that hands over to its tool; TRL leaves it out"
        return None


def _refusal(said: str) -> str | None:
    if "leaves its words or its tool calls out" in said or "leaves the tool's answer out" in said:
        return _LOST
    return _TEXT_ONLY if 'can only concatenate str (not "dict")' in said else None


@cache
def comparisons(name: str, form: str, with_tools: bool) -> list[Compared]:
    """All conversations in the template *name*, as rows of that *form*."""
    folder = _tokenizer(name)
    rows = [as_form(form, messages) | ({"tools": TOOLS} if with_tools else {}) for messages in CONVERSATIONS.values()]
    theirs = theirs_one_by_one([_parts(row) for row in rows] if name in _PARTS else rows, folder)
    return [
        Compared(name, chat, their, our, folder)
        for chat, their, our in zip(CONVERSATIONS, theirs, ours_one_by_one(rows, folder), strict=True)
    ]


_scratch = tempfile.TemporaryDirectory()  # removed at the end of the process: comparisons are shared by tests


@cache
def _tokenizer(name: str) -> Path:
    return write_tokenizer(Path(_scratch.name) / name, (FOLDER / f"{name}.jinja").read_text())


def as_form(form: str, messages: list[Fields]) -> Fields:
    """*messages* as they are, or split before the last answer."""
    if form == "messages":
        return {"messages": messages}
    last = max(index for index, message in enumerate(messages) if message["role"] == "assistant")
    return {"prompt": messages[:last], "completion": messages[last:]}


def _parts(row: Fields) -> Fields:
    def part(value: Any) -> Any:
        return [turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in value]

    return {column: value if column == "tools" else part(value) for column, value in row.items()}


def differing() -> Iterator[Compared]:
    """What differs, over all templates."""
    for name in NAMES:
        for form in FORMS:
            yield from (each for each in comparisons(name, form, False) if not each.equal)
