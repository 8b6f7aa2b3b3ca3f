"""Examples to token ids and labels. Tokens that carry no loss have the label -100 (torch's cross-entropy default)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from job.errors import BadData
from job.prepare.formats import Chat, Example, Message, Text

IGNORED = -100
Span = tuple[int, int]  # characters, end exclusive


@dataclass(frozen=True)
class Tokens:
    """One row: *input_ids* and *labels*, both of shape (length,), int32."""

    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]


class RowTokenizer:
    """Renders and tokenizes examples as TRL's SFTTrainer does, a batch at a time on all cores."""

    def __init__(self, folder: Path) -> None:
        # The fast class directly: AutoTokenizer would import torch.
        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        self._backend = self._tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._template = self._tokenizer.chat_template and self._tokenizer.get_chat_template()
        self._marks_assistant = bool(self._template) and "{% generation %}" in _spaced(self._template)

    @property
    def has_chat_template(self) -> bool:
        return bool(self._template)

    def __call__(self, examples: Sequence[tuple[str, Example]]) -> list[Tokens]:
        """Tokenize (where, example) pairs.

        Raises:
            BadData: the chat template fails on a row, or its assistant turns cannot be told apart.
        """
        tokens: dict[int, Tokens] = {}
        texts = [(i, e) for i, (_, e) in enumerate(examples) if isinstance(e, Text)]
        chats = [(i, where, e) for i, (where, e) in enumerate(examples) if isinstance(e, Chat)]
        tokens.update(zip((i for i, _ in texts), self._texts([e for _, e in texts]), strict=True))
        tokens.update(zip((i for i, *_ in chats), self._chats([(w, e) for _, w, e in chats]), strict=True))
        return [tokens[i] for i in range(len(examples))]

    def _texts(self, examples: list[Text]) -> list[Tokens]:
        full = self._encode([self._ended(example.text) for example in examples], special=True)
        prompts = iter(self._encode([e.prompt for e in examples if e.prompt is not None], special=True))
        return [
            _after_prompt(encoding.ids, [] if example.prompt is None else next(prompts).ids)
            for example, encoding in zip(examples, full, strict=True)
        ]

    def _chats(self, examples: list[tuple[str, Chat]]) -> list[Tokens]:
        rendered = [self._render_chat(where, example) for where, example in examples]
        full = self._encode([text for text, _ in rendered], special=False)
        prompts = iter(self._encode([trained for _, trained in rendered if isinstance(trained, str)], special=False))
        return [
            _after_prompt(encoding.ids, next(prompts).ids) if isinstance(trained, str) else _in_spans(encoding, trained)
            for encoding, (_, trained) in zip(full, rendered, strict=True)
        ]

    def _ended(self, text: str) -> str:
        """*text* with the end token that makes a model stop, as TRL appends it."""
        end = self._tokenizer.eos_token
        if end is None:
            raise BadData("The tokenizer of JOB_MODEL has no eos_token, so the model could not learn to stop.")
        return text if text.endswith(end) else text + end

    def _render_chat(self, where: str, example: Chat) -> tuple[str, str | list[Span]]:
        """The text of a conversation, with its prompt's text or the spans of its assistant turns."""
        try:
            if example.prompt_turns is not None:
                prompt = self._render(example.messages[: example.prompt_turns], generation_prompt=True)
                return self._render(example.messages), prompt
            if self._marks_assistant:
                return self._render_marked(example.messages)
            return self._render_turns(where, example.messages)
        except BadData:
            raise
        except Exception as error:  # a template is a program of the model's author and may raise anything
            reason = f"{type(error).__name__}: {error}"
            raise BadData(f"{where}: the chat template of JOB_MODEL refuses this row ({reason}).") from error

    def _render(self, messages: list[Message], generation_prompt: bool = False) -> str:
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation_prompt)
        return str(text)

    def _render_marked(self, messages: list[Message]) -> tuple[str, list[Span]]:
        texts, spans = render_jinja_template(
            conversations=[messages],
            chat_template=self._template,
            return_assistant_tokens_mask=True,
            **self._tokenizer.special_tokens_map,
        )
        return texts[0], spans[0]

    def _render_turns(self, where: str, messages: list[Message]) -> tuple[str, list[Span]]:
        """Spans by common prefix: a turn is what the text gains when the turn is added to the messages before it."""
        text = self._render(messages)
        spans: list[Span] = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(messages[:index], generation_prompt=True)
            through = self._render(messages[: index + 1])
            if not (through.startswith(before) and text.startswith(through)):
                raise BadData(
                    f"{where}: the chat template renders turn {index} differently once later turns follow, so the "
                    "assistant's tokens cannot be told apart.",
                    "Use rows with 'prompt' and 'completion' messages.",
                )
            spans.append((len(before), len(through)))
        return text, spans

    def _encode(self, texts: list[str], *, special: bool) -> list[Encoding]:
        return list(self._backend.encode_batch(texts, add_special_tokens=special))


def _spaced(template: str) -> str:
    """*template* without whitespace control, so that ``{%- generation -%}`` is found too."""
    return template.replace("{%-", "{%").replace("-%}", "%}")


def _after_prompt(ids: list[int], prompt_ids: list[int]) -> Tokens:
    """Loss on what follows the common prefix of *ids* and *prompt_ids*, TRL's rule for prompt and completion."""
    input_ids = np.array(ids, dtype=np.int32)
    start = next((i for i, (a, b) in enumerate(zip(ids, prompt_ids, strict=False)) if a != b), None)
    labels = input_ids.copy()
    labels[: min(len(ids), len(prompt_ids)) if start is None else start] = IGNORED
    return Tokens(input_ids, labels)


def _in_spans(encoding: Encoding, spans: list[Span]) -> Tokens:
    """Loss on the tokens of *spans*, as transformers turns generation markers into a mask."""
    input_ids = np.array(encoding.ids, dtype=np.int32)
    labels = np.full_like(input_ids, IGNORED)
    for begin, end in spans:
        first, last = encoding.char_to_token(begin), encoding.char_to_token(end - 1)
        if end > begin and first is not None:
            stop = len(input_ids) if last is None else last + 1
            labels[first:stop] = input_ids[first:stop]
    return Tokens(input_ids, labels)
