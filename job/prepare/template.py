"""A model's chat template, and what a short conversation shows of it."""

import copy
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from transformers.utils.chat_template_utils import (
    _compile_jinja_template,  # what render_jinja_template calls; there is no public way to reach the template's clock
    render_jinja_template,
)

from job.prepare.formats import Message
from job.prepare.limits import TEXT_LIMIT, RenderLimit, TooCostly

Span = tuple[int, int]  # characters, end exclusive

FIRST_QUESTION, FIRST_ANSWER, _SECOND_QUESTION, SECOND_ANSWER = "Which one?", "The first.", "And then?", "The second."
_PROBE: list[Message] = [
    {"role": "user", "content": FIRST_QUESTION},
    {"role": "assistant", "content": FIRST_ANSWER},
    {"role": "user", "content": _SECOND_QUESTION},
    {"role": "assistant", "content": SECOND_ANSWER},
]
_SYSTEM: Message = {"role": "system", "content": "Be brief."}

_CLOCK = "strftime_now"
_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


class ChatTemplate:
    """A chat template, with what a short conversation showed of it when it was loaded.

    Attributes:
        asked_time: what it was told of the time; None: it does not ask.
        by_markers: the template marks the assistant's turns itself. The attributes below are then not looked for.
        writes_content: what the turns say is in the text.
        prompt: the generation prompt, and `prompt_cuts` its beginnings that open an assistant's turn, longest first.
        openings: what stands between the generation prompt and a turn's words.
        closing: what follows the words of an earlier turn before the next one's header.
        unclosed: the token that ends the last turn and that the template leaves out, as the next header brings it.

    Rendering raises `TooCostly` where it takes the template too long or too much memory, from then on at once if that
    was the short conversation.
    """

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, Any],
        added_tokens: Iterable[str],
        time: datetime | None = None,
    ) -> None:
        self._source = source
        # One that asks for the date must get the same one for all renderings of a row, at midnight too.
        self._time = time or datetime.now()
        self.asked_time = self._time if _CLOCK in source else None
        self._special_tokens = special_tokens
        longest_first = sorted((token for token in added_tokens if token.strip()), key=len, reverse=True)
        self._tools: list[Any] | None = None
        self._variables: Mapping[str, Any] = {}
        self._limit = RenderLimit()
        self._added = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._as_parts = self.by_markers = False
        self.writes_content = True
        self._lead: list[Message] = []
        self.prompt, self.closing, self.unclosed = "", "", ""
        self.prompt_cuts: list[str] = []
        self.openings = [""]
        self._limit_met: TooCostly | None = None
        try:
            self._look()
        except TooCostly as limit:
            self._limit_met = limit
        except Exception:  # a template is a program and may raise anything; a row that it refuses names the reason
            return

    @property
    def probe(self) -> list[Message]:
        """The conversation that the template was looked at with: two questions, each with its answer."""
        return [*self._lead, *_PROBE]

    def for_row(self, tools: list[Any] | None, variables: Mapping[str, Any]) -> "ChatTemplate":
        """This template for a row that brings *tools* and *variables* of its own."""
        template = copy.copy(self)
        template._tools, template._variables = tools, variables
        return template

    def render(self, messages: list[Message], generation_prompt: bool = False) -> str:
        """The text of *messages*. Raises whatever the template raises."""
        return self._render(messages, add_generation_prompt=generation_prompt)[0]

    def render_marked(self, messages: list[Message]) -> tuple[str, list[Span]]:
        """The text of *messages* with the spans that the template marks. Raises whatever the template raises."""
        return self._render(messages, return_assistant_tokens_mask=True)

    def added_tokens(self, text: str) -> list[str]:
        return [found[0] for found in self._added.finditer(text)]

    def next_token(self, text: str, start: int) -> str:
        """The added token that stands in *text* at *start*; "" when there is none."""
        found = self._added.match(text, start)
        return found[0] if found else ""

    def _render(self, messages: list[Message], **options: Any) -> tuple[str, list[Span]]:
        if self._as_parts:
            messages = [message | {"content": _part(message["content"])} for message in messages]
        if self._limit_met:  # once is enough
            raise TooCostly(str(self._limit_met))
        with self._limit:
            texts, spans = render_jinja_template(
                conversations=[messages],
                tools=self._tools,
                chat_template=self._source,
                **options,
                **self._special_tokens,
                **self._variables,
            )
        if len(texts[0]) > TEXT_LIMIT:
            raise TooCostly(f"writes more than {TEXT_LIMIT // 2**20} million characters")
        return texts[0], spans[0] if spans else []

    def _look(self) -> None:
        with self._limit:  # the compiler works constant expressions out
            template = _compile_jinja_template(self._source)
        template.environment.globals[_CLOCK] = self._time.strftime
        # Templates of some vision models drop or refuse a content that is a string; they want a list of parts.
        # Some others want a system turn.
        forms = ((as_parts, lead) for lead in ([], [_SYSTEM]) for as_parts in (False, True))
        self._as_parts, self._lead = next((form for form in forms if self._writes(*form)), (False, []))
        self.writes_content = SECOND_ANSWER in self.render(self.probe)
        # A mark in a comment, or around nothing, marks nothing.
        self.by_markers = bool(_MARK.search(self._source) and self.render_marked(self.probe)[1])
        if not self.by_markers:
            self._learn()

    def _writes(self, as_parts: bool, lead: list[Message]) -> bool:
        self._as_parts, self._lead = as_parts, lead
        try:
            return SECOND_ANSWER in self.render(self.probe)
        except Exception:  # whatever a template raises that is given the wrong form of content
            return False

    def _learn(self) -> None:
        """The generation prompt, what closes a turn that another follows, and what opens a turn after the prompt."""
        self.prompt = self._gained(self.render(self.probe[:-3]), self.render(self.probe[:-3], generation_prompt=True))
        text, earlier = self.render(self.probe), self.render(self.probe[:-2], generation_prompt=True)
        between = _between(text, FIRST_ANSWER, _SECOND_QUESTION)
        closing = earlier.rpartition(FIRST_ANSWER)[2].removesuffix(self.prompt)
        users = between.removeprefix(closing)
        if between.startswith(closing):
            self.closing = closing.rstrip(" ")
        self.prompt_cuts = self._cuts(shared_length(users, self.prompt))
        if not self.closing and text.endswith(SECOND_ANSWER):
            self.unclosed = self.next_token(users, 0)
        for asked, answered in ((FIRST_QUESTION, FIRST_ANSWER), (_SECOND_QUESTION, SECOND_ANSWER)):
            _, prompt, opening = _between(text, asked, answered).rpartition(self.prompt or "\0")
            if prompt and opening not in self.openings:
                self.openings.append(opening)

    def _gained(self, before: str, after: str) -> str:
        """What *after* has past its common prefix with *before*, which ends before an added token, not inside."""
        shared = shared_length(before, after)
        return after[next((m.start() for m in self._added.finditer(after) if m.start() < shared < m.end()), shared) :]

    def _cuts(self, shortest: int) -> list[str]:
        """The beginnings of the generation prompt that tell an assistant's turn from a user's, longest first.

        A template may give the model more than a header (an opened reasoning block) and write earlier turns without.
        """
        ends = {match.end() for match in self._added.finditer(self.prompt)} | {len(self.prompt)}
        ends |= {match.end() for match in re.finditer(r"\n+", self.prompt)}
        return [self.prompt[:end] for end in sorted(ends, reverse=True) if end > shortest]


def _part(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _between(text: str, before: str, after: str) -> str:
    return text[text.index(before) + len(before) : text.index(after)]


def shared_length(one: str, other: str) -> int:
    """The length of the common prefix, in as many comparisons as the length has digits in base two."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return low
