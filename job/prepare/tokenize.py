"""Answers to token ids and labels."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from job.chat_template import DEFAULT
from job.errors import BadData
from job.prepare.encode import IGNORED, Encoder, Tokens
from job.prepare.formats import Answer, Chat, Text
from job.prepare.limits import TooCostly, limited_memory
from job.prepare.load import OTHER_TEMPLATE, load_tokenizer, whose
from job.prepare.template import ChatTemplate, Span
from job.prepare.turns import render_with_turns
from job.records import ChatTemplateChoice

Rendered = TypeVar("Rendered")


@dataclass(frozen=True)
class PromptTokens:
    """A prompt as the model reads it: *input_ids* of shape (length,), int32, of *text*. *messages*: those that were
    rendered, as JSON; None where it was no conversation."""

    input_ids: NDArray[np.int32]
    text: str
    messages: str | None


class RowTokenizer:
    """Renders and tokenizes examples as TRL's trainers do, a batch at a time.

    Attributes:
        chat_template: the chat template that renders conversations.
        template_time: what that template was told of the time; None: it does not ask.
        taught: what rows with 'messages' teach, as a short conversation showed when this was loaded.
    """

    def __init__(
        self, folder: Path, chosen: ChatTemplateChoice | None = None, template_time: datetime | None = None
    ) -> None:
        loaded = load_tokenizer(folder, chosen, template_time)
        self._tokenizer, self._template, self._tool_template = loaded.tokenizer, loaded.template, loaded.tool_template
        self.chat_template, self.taught = loaded.chat_template, loaded.taught
        self.template_time = self._template.asked_time or self._tool_template.asked_time
        self._encoder = Encoder(self._tokenizer.backend_tokenizer)

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer has a template of its own or was given one; the default is for conversations only."""
        return self.chat_template != DEFAULT

    def decode(self, ids: Sequence[int]) -> str:
        """The text of *ids*, special tokens included."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def __call__(self, examples: Sequence[tuple[str, Answer]]) -> list[Tokens | BadData]:
        """Tokenize (where, example) pairs. In the place of a row that the chat template refuses, or whose assistant
        turns cannot be told apart, stands the problem.

        Raises:
            BadData: the tokenizer cannot serve any row, or the chat template costs too much to serve this one.
        """
        tokens: dict[int, Tokens | BadData] = {}
        texts = [(i, e) for i, (_, e) in enumerate(examples) if isinstance(e, Text)]
        chats = [(i, where, e) for i, (where, e) in enumerate(examples) if isinstance(e, Chat)]
        tokens.update(zip((i for i, _ in texts), self._texts([e for _, e in texts]), strict=True))
        tokens.update(zip((i for i, *_ in chats), self._chats([(w, e) for _, w, e in chats]), strict=True))
        return [tokens[i] for i in range(len(examples))]

    def prompts(self, examples: Sequence[tuple[str, Answer]]) -> list[PromptTokens | BadData]:
        """Tokenize the prompts of (where, example) pairs, each up to where the model's answer begins, as TRL's trainers
        do that draw answers. In the place of a row that the chat template refuses stands the problem.

        Raises:
            BadData: the tokenizer cannot serve any row, or the chat template costs too much to serve this one.
        """
        with limited_memory():
            texts = [self._prompt_text(where, example) for where, example in examples]
        prompts = list(zip(texts, (example for _, example in examples), strict=True))
        by_kind = {
            special: iter(
                self._encoder.whole(
                    [text for text, one in prompts if isinstance(text, str) and isinstance(one, Text) is special],
                    special=special,
                )
            )
            for special in (True, False)
        }
        return [
            text
            if isinstance(text, BadData)
            else PromptTokens(next(by_kind[isinstance(example, Text)]), text, _as_json(example))
            for text, example in prompts
        ]

    def _prompt_text(self, where: str, example: Answer) -> str | BadData:
        if isinstance(example, Text):
            return example.text
        return self._guarded(
            where,
            lambda: (
                self._usable_template(where, example)
                .for_row(example.tools, example.template_kwargs)
                .render(example.messages, generation_prompt=True)
            ),
        )

    def _texts(self, examples: list[Text]) -> list[Tokens]:
        return self._encoder.plain([self._ended(example.text) for example in examples], [e.prompt for e in examples])

    def _chats(self, examples: list[tuple[str, Chat]]) -> list[Tokens | BadData]:
        with limited_memory():
            outcomes = [self._render_chat(where, example) for where, example in examples]
        rendered = [outcome for outcome in outcomes if not isinstance(outcome, BadData)]
        spanned = [(text, spans) for text, spans in rendered if not isinstance(spans, str)]
        prompted = [(text, prompt) for text, prompt in rendered if isinstance(prompt, str)]
        tokens = {str: iter(self._encoder.after_prompts(prompted)), list: iter(self._encoder.in_spans(spanned))}
        rows = (outcome if isinstance(outcome, BadData) else next(tokens[type(outcome[1])]) for outcome in outcomes)
        return [self._with_something(where, row) for (where, _), row in zip(examples, rows, strict=True)]

    def _with_something(self, where: str, row: Tokens | BadData) -> Tokens | BadData:
        """*row*, or the problem that there is nothing to learn in all of it."""
        if isinstance(row, BadData) or (row.labels != IGNORED).any():
            return row
        return BadData(
            f"{where}: the chat template {whose(self.chat_template)} leaves nothing of this row to learn.",
            OTHER_TEMPLATE,
        )

    def _ended(self, text: str) -> str:
        """*text* with the end token that makes a model stop, as TRL appends it."""
        end = self._tokenizer.eos_token
        if end is None:
            raise BadData("The tokenizer of JOB_MODEL has no eos_token, so the model could not learn to stop.")
        return text if text.endswith(end) else text + end

    def _render_chat(self, where: str, example: Chat) -> tuple[str, str | list[Span]] | BadData:
        """The text of a conversation, with its prompt's text or the spans of its assistant turns; or the problem."""

        def rendered() -> tuple[str, str | list[Span]]:
            template = self._usable_template(where, example).for_row(example.tools, example.template_kwargs)
            if example.prompt_turns is None:
                return render_with_turns(template, where, example.messages)
            prompt = template.render(example.messages[: example.prompt_turns], generation_prompt=True)
            return template.render(example.messages), prompt

        return self._guarded(where, rendered)

    def _guarded(self, where: str, render: Callable[[], Rendered]) -> Rendered | BadData:
        """What *render* returns, or why the row at *where* cannot be rendered."""
        try:
            return render()
        except BadData as problem:
            return problem
        except TooCostly as limit:
            whose_template = f"{where}: the chat template {whose(self.chat_template)}"
            raise BadData(f"{whose_template} {limit} to write this row.", OTHER_TEMPLATE) from limit
        except Exception as error:  # a template is a program of the model's author and may raise anything
            reason = f"{type(error).__name__}: {error}"
            return BadData(f"{where}: the chat template {whose(self.chat_template)} refuses this row ({reason}).")

    def _usable_template(self, where: str, example: Chat) -> ChatTemplate:
        template = self._tool_template if example.tools else self._template
        if not template.writes_content:
            raise BadData(
                f"{where}: the chat template {whose(self.chat_template)} does not write what the turns say.",
                "Set JOB_CHAT_TEMPLATE to another, such as plain, or use rows with prompt and completion.",
            )
        return template


def _as_json(example: Answer) -> str | None:
    return json.dumps(example.messages, default=str) if isinstance(example, Chat) else None
