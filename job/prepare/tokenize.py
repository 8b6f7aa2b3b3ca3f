"""Examples to token ids and labels. Tokens that carry no loss have the label -100 (torch's cross-entropy default)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from job.chat_template import DEFAULT
from job.errors import BadData
from job.prepare.formats import Chat, Example, Text
from job.prepare.limits import TooCostly, limited_memory
from job.prepare.load import OTHER_TEMPLATE, load_tokenizer, whose
from job.prepare.template import ChatTemplate, Span
from job.prepare.turns import render_with_turns
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
        taught: what rows with 'messages' teach, as a short conversation showed when this was loaded.
    """

    def __init__(self, folder: Path, chosen: ChatTemplateChoice | None = None) -> None:
        loaded = load_tokenizer(folder, chosen)
        self._tokenizer, self._template, self._tool_template = loaded.tokenizer, loaded.template, loaded.tool_template
        self.chat_template, self.taught = loaded.chat_template, loaded.taught
        self._backend = self._tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer has a template of its own or was given one; the default is for conversations only."""
        return self.chat_template != DEFAULT

    def decode(self, ids: Sequence[int]) -> str:
        """The text of *ids*, special tokens included."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def __call__(self, examples: Sequence[tuple[str, Example]]) -> list[Tokens | BadData]:
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

    def _texts(self, examples: list[Text]) -> list[Tokens]:
        full = self._ids([self._ended(example.text) for example in examples], special=True)
        prompts = iter(self._ids([e.prompt for e in examples if e.prompt is not None], special=True))
        return [
            _after_prompt(ids, 0, [] if example.prompt is None else next(prompts))
            for example, ids in zip(examples, full, strict=True)
        ]

    def _chats(self, examples: list[tuple[str, Chat]]) -> list[Tokens | BadData]:
        with limited_memory():
            outcomes = [self._render_chat(where, example) for where, example in examples]
        rendered = [outcome for outcome in outcomes if not isinstance(outcome, BadData)]
        spanned = [(text, spans) for text, spans in rendered if not isinstance(spans, str)]
        prompted = [(text, prompt) for text, prompt in rendered if isinstance(prompt, str)]
        tokens = {str: iter(self._after_prompts(prompted)), list: iter(self._in_spans(spanned))}
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

    def _in_spans(self, rendered: list[tuple[str, list[Span]]]) -> list[Tokens]:
        encodings = self._backend.encode_batch([text for text, _ in rendered], add_special_tokens=False)
        return [_in_spans(encoding, spans) for encoding, (_, spans) in zip(encodings, rendered, strict=True)]

    def _after_prompts(self, rendered: list[tuple[str, str]]) -> list[Tokens]:
        full = self._ids([text for text, _ in rendered], special=False)
        starts = [self._sure_start(ids, text, prompt) for ids, (text, prompt) in zip(full, rendered, strict=True)]
        # The rest of a prompt is mostly its last header, the same in every row.
        rests = list(dict.fromkeys(rest for _, rest in starts))
        rest_ids = dict(zip(rests, self._ids(rests, special=False), strict=True))
        return [_after_prompt(ids, start, rest_ids[rest]) for ids, (start, rest) in zip(full, starts, strict=True)]

    def _sure_start(self, ids: list[int], text: str, prompt: str) -> tuple[int, str]:
        """How many of the first *ids*, those of *text*, are surely those of *prompt*, and the rest of *prompt*.

        What stands on the two sides of an added token is encoded apart, so up to the last one that the prompt holds,
        the prompt's tokens are those of the text. Unless the tokenizer found other added tokens than are looked for.
        """
        template = self._template
        given = template.added_tokens(prompt) if text.startswith(prompt) else []
        if not given:
            return 0, prompt
        token = self._backend.token_to_id(given[-1])
        if ids.count(token) != template.added_tokens(text).count(given[-1]):
            return 0, prompt
        places = (place for place, found in enumerate(ids) if found == token)
        return next(islice(places, given.count(given[-1]) - 1, None)), prompt[prompt.rindex(given[-1]) :]

    def _ended(self, text: str) -> str:
        """*text* with the end token that makes a model stop, as TRL appends it."""
        end = self._tokenizer.eos_token
        if end is None:
            raise BadData("The tokenizer of JOB_MODEL has no eos_token, so the model could not learn to stop.")
        return text if text.endswith(end) else text + end

    def _render_chat(self, where: str, example: Chat) -> tuple[str, str | list[Span]] | BadData:
        """The text of a conversation, with its prompt's text or the spans of its assistant turns; or the problem."""
        try:
            template = self._usable_template(where, example).for_row(example.tools, example.template_kwargs)
            if example.prompt_turns is None:
                return render_with_turns(template, where, example.messages)
            prompt = template.render(example.messages[: example.prompt_turns], generation_prompt=True)
            return template.render(example.messages), prompt
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

    def _ids(self, texts: list[str], *, special: bool) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=special)]


def _after_prompt(ids: list[int], start: int, prompt_ids: list[int]) -> Tokens:
    """Loss on what follows the common prefix of *ids* and the prompt, TRL's rule for prompt and completion. The first
    *start* tokens are the prompt's; *prompt_ids* are those that it goes on with."""
    input_ids, prompt = np.array(ids, dtype=np.int32), np.array(prompt_ids, dtype=np.int32)
    compared = min(len(input_ids) - start, len(prompt))
    differ = np.flatnonzero(input_ids[start : start + compared] != prompt[:compared])
    labels = input_ids.copy()
    labels[: start + (differ[0] if differ.size else compared)] = IGNORED
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
