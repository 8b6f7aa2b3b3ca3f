"""Examples to token ids and labels. Tokens that carry no loss have the label -100 (torch's cross-entropy default)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from job.chat_template import DEFAULT, OWN
from job.errors import BadData
from job.prepare.formats import Chat, Example, Text
from job.prepare.load import load_tokenizer
from job.prepare.template import ChatTemplate, Span
from job.prepare.turns import end_tokens, render_with_turns
from job.records import ChatTemplateChoice

IGNORED = -100


@dataclass(frozen=True)
class Tokens:
    """One row: *input_ids* and *labels*, both of shape (length,), int32."""

    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]


class RowTokenizer:
    """Renders and tokenizes examples as TRL's SFTTrainer does, a batch at a time on all cores.

    Attributes:
        chat_template: the chat template that renders conversations.
        end_of_turn: the token that carries loss at the end of an earlier turn and of the last one; "" where none does.
    """

    def __init__(self, folder: Path, chosen: ChatTemplateChoice | None = None) -> None:
        self._tokenizer, self.chat_template = load_tokenizer(folder, chosen)
        self._of = "of JOB_MODEL" if self.chat_template == OWN else str(self.chat_template)
        self._backend = self._tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        source, special = self._tokenizer.get_chat_template(), self._tokenizer.special_tokens_map
        self._template = ChatTemplate(source, special, self._tokenizer.added_tokens_encoder)
        self.end_of_turn = end_tokens(self._template)

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer has a template of its own or was given one; the default is for conversations only."""
        return self.chat_template != DEFAULT

    @property
    def end_of_turn_trained(self) -> bool:
        """Whether rows with 'messages' teach the model to stop, as a short conversation showed when this was loaded."""
        return all(self.end_of_turn)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of *ids*, special tokens included."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def __call__(self, examples: Sequence[tuple[str, Example]]) -> list[Tokens | BadData]:
        """Tokenize (where, example) pairs. In the place of a row that the chat template refuses, or whose assistant
        turns cannot be told apart, stands the problem.

        Raises:
            BadData: the tokenizer cannot serve any row.
        """
        tokens: dict[int, Tokens | BadData] = {}
        texts = [(i, e) for i, (_, e) in enumerate(examples) if isinstance(e, Text)]
        chats = [(i, where, e) for i, (where, e) in enumerate(examples) if isinstance(e, Chat)]
        tokens.update(zip((i for i, _ in texts), self._texts([e for _, e in texts]), strict=True))
        tokens.update(zip((i for i, *_ in chats), self._chats([(w, e) for _, w, e in chats]), strict=True))
        return [tokens[i] for i in range(len(examples))]

    def _texts(self, examples: list[Text]) -> list[Tokens]:
        full = self._ids([self._ended(example.text) for example in examples], special=True)
        prompts = iter(self._ids([e.prompt for e in examples if e.prompt is not None], special=True))
        return [
            _after_prompt(ids, [] if example.prompt is None else next(prompts))
            for example, ids in zip(examples, full, strict=True)
        ]

    def _chats(self, examples: list[tuple[str, Chat]]) -> list[Tokens | BadData]:
        outcomes = [self._render_chat(where, example) for where, example in examples]
        rendered = [outcome for outcome in outcomes if not isinstance(outcome, BadData)]
        # Offsets cost time, and only spans need them.
        spanned = iter(self._encodings([text for text, trained in rendered if not isinstance(trained, str)]))
        prompted = [(text, trained) for text, trained in rendered if isinstance(trained, str)]
        full = iter(self._ids([text for text, _ in prompted], special=False))
        prompts = iter(self._ids([prompt for _, prompt in prompted], special=False))
        tokens = iter(
            _after_prompt(next(full), next(prompts)) if isinstance(trained, str) else _in_spans(next(spanned), trained)
            for _, trained in rendered
        )
        return [outcome if isinstance(outcome, BadData) else next(tokens) for outcome in outcomes]

    def _ended(self, text: str) -> str:
        """*text* with the end token that makes a model stop, as TRL appends it."""
        end = self._tokenizer.eos_token
        if end is None:
            raise BadData("The tokenizer of JOB_MODEL has no eos_token, so the model could not learn to stop.")
        return text if text.endswith(end) else text + end

    def _render_chat(self, where: str, example: Chat) -> tuple[str, str | list[Span]] | BadData:
        """The text of a conversation, with its prompt's text or the spans of its assistant turns; or the problem."""
        try:
            template = self._usable_template(where).with_tools(example.tools)
            if example.prompt_turns is None:
                return render_with_turns(template, where, example.messages)
            prompt = template.render(example.messages[: example.prompt_turns], generation_prompt=True)
            return template.render(example.messages), prompt
        except BadData as problem:
            return problem
        except Exception as error:  # a template is a program of the model's author and may raise anything
            reason = f"{type(error).__name__}: {error}"
            return BadData(f"{where}: the chat template {self._of} refuses this row ({reason}).")

    def _usable_template(self, where: str) -> ChatTemplate:
        if not self._template.writes_content:
            raise BadData(
                f"{where}: the chat template {self._of} does not write what the turns say.",
                "Set JOB_CHAT_TEMPLATE to another, such as plain, or use rows with prompt and completion.",
            )
        return self._template

    def _ids(self, texts: list[str], *, special: bool) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=special)]

    def _encodings(self, texts: list[str]) -> list[Encoding]:
        """With character offsets."""
        return list(self._backend.encode_batch(texts, add_special_tokens=False))


def _after_prompt(ids: list[int], prompt_ids: list[int]) -> Tokens:
    """Loss on what follows the common prefix of *ids* and *prompt_ids*, TRL's rule for prompt and completion."""
    input_ids = np.array(ids, dtype=np.int32)
    start = next((i for i, (a, b) in enumerate(zip(ids, prompt_ids, strict=False)) if a != b), None)
    labels = input_ids.copy()
    labels[: min(len(ids), len(prompt_ids)) if start is None else start] = IGNORED
    return Tokens(input_ids, labels)


def _in_spans(encoding: Encoding, spans: list[Span]) -> Tokens:
    """Loss on the tokens of *spans*."""
    input_ids = np.array(encoding.ids, dtype=np.int32)
    labels = np.full_like(input_ids, IGNORED)
    for begin, end in spans:
        first, stop = _tokens_of(encoding, begin, end)
        labels[first:stop] = input_ids[first:stop]
    return Tokens(input_ids, labels)


def _tokens_of(encoding: Encoding, begin: int, end: int) -> tuple[int, int]:
    """The tokens, end exclusive, of the characters from *begin* to before *end*."""

    def nearest(places: range) -> int | None:
        # A character can lie in no token: some tokenizers swallow the white space beside a special token.
        return next((token for place in places if (token := encoding.char_to_token(place)) is not None), None)

    first, last = nearest(range(begin, end)), nearest(range(end - 1, begin - 1, -1))
    if first is None or last is None:
        return 0, 0
    stop = last + 1
    # A character of many bytes can be many tokens, of which the first one is found.
    while (characters := encoding.token_to_chars(stop)) and characters[0] < end:
        stop += 1
    return first, stop
