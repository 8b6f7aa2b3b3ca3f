"""Rendered text to token ids and labels. Tokens that carry no loss have the label -100 (torch's cross-entropy default).

What stands on the two sides of an added token (``<|im_end|>``, ``</s>``) is encoded apart. So the place of a character
among the tokens follows from the added token before it and the few tokens between the two, which mostly are a header
that all rows share. That is cheaper than to let the tokenizer keep track of every character.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from job.prepare.template import Span

IGNORED = -100

# Characters between an added token and a place; with more of them they are hardly those of a header.
_HEADER = 64


@dataclass(frozen=True)
class Tokens:
    """One row: *input_ids* and *labels*, both of shape (length,), int32."""

    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]


@dataclass(frozen=True)
class _Anchored:
    """A text as tokens, and where its added tokens stand: the character and the token each of them begins at."""

    text: str
    ids: NDArray[np.int32]
    characters: list[int]
    tokens: list[int]

    def before(self, place: int) -> tuple[int, str]:
        """How many tokens stand before the last added token that begins before *place*, and the text from it on."""
        index = bisect_left(self.characters, place) - 1
        return (self.tokens[index], self.text[self.characters[index] : place]) if index >= 0 else (0, self.text[:place])


class Encoder:
    """Encodes batches of texts and labels what carries loss, as TRL does."""

    def __init__(self, backend: Tokenizer) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        added = backend.get_added_tokens_decoder()
        self._added = {token.content: number for number, token in added.items() if token.content.strip()}
        self._is_added = np.zeros(max([backend.get_vocab_size(), *added]) + 1, dtype=bool)
        self._is_added[list(self._added.values())] = True
        # A token may swallow the white space beside it, and with it the beginning or the end of what was said.
        self._swallow = any(token.lstrip or token.rstrip for token in added.values())
        self._pattern = re.compile("|".join(map(re.escape, sorted(self._added, key=len, reverse=True))) or "(?!)")

    def whole(self, texts: Sequence[str], *, special: bool) -> list[NDArray[np.int32]]:
        """Ids of whole texts; *special*: the tokenizer adds its special tokens."""
        return self._ids(texts, special=special) if texts else []

    def plain(self, texts: Sequence[str], prompts: Sequence[str | None]) -> list[Tokens]:
        """Loss on what follows the prompt, or on everything without one; the tokenizer adds its special tokens."""
        prompt_ids = iter(self._ids([prompt for prompt in prompts if prompt is not None], special=True))
        return [
            Tokens(ids, ids) if prompt is None else _after_prompt(ids, 0, next(prompt_ids))
            for ids, prompt in zip(self._ids(texts, special=True), prompts, strict=True)
        ]

    def after_prompts(self, rendered: Sequence[tuple[str, str]]) -> list[Tokens]:
        """Loss on what follows the prompt of each (text, prompt)."""
        rows = self._anchored([text for text, _ in rendered])
        # A text that does not begin with its prompt has the prompt's tokens nowhere to be found.
        known = [
            row.before(len(prompt)) if row.text.startswith(prompt) else (0, prompt)
            for row, (_, prompt) in zip(rows, rendered, strict=True)
        ]
        rest_ids = self._each_once(rest for _, rest in known)
        return [_after_prompt(row.ids, start, rest_ids[rest]) for row, (start, rest) in zip(rows, known, strict=True)]

    def in_spans(self, rendered: Sequence[tuple[str, list[Span]]]) -> list[Tokens]:
        """Loss on the spans of each (text, spans)."""
        if self._swallow:
            return self._tracked(rendered)
        rows = self._anchored([text for text, _ in rendered])
        spans = [spans for _, spans in rendered]
        headers = self._each_once(
            rest for row, each in zip(rows, spans, strict=True) for _, rest in _ends(row, each) if len(rest) <= _HEADER
        )
        placed = [_placed(row, each, headers) for row, each in zip(rows, spans, strict=True)]
        exact = iter(self._tracked([pair for pair, found in zip(rendered, placed, strict=True) if found is None]))
        return [next(exact) if found is None else found for found in placed]

    def _tracked(self, rendered: Sequence[tuple[str, list[Span]]]) -> list[Tokens]:
        """`in_spans` by the tokenizer's own account of characters."""
        encodings = self._backend.encode_batch([text for text, _ in rendered], add_special_tokens=False)
        return [
            _labelled(np.array(encoding.ids, dtype=np.int32), [_tokens_of(encoding, *span) for span in spans])
            for encoding, (_, spans) in zip(encodings, rendered, strict=True)
        ]

    def _anchored(self, texts: Sequence[str]) -> list[_Anchored]:
        return [self._anchor(text, ids) for text, ids in zip(texts, self._ids(texts, special=False), strict=True)]

    def _anchor(self, text: str, ids: NDArray[np.int32]) -> _Anchored:
        found = list(self._pattern.finditer(text))
        tokens = np.flatnonzero(self._is_added[ids])
        # Some added tokens are found only as whole words, or after the text was normalized.
        if [self._added[match[0]] for match in found] != ids[tokens].tolist():
            return _Anchored(text, ids, [], [])
        return _Anchored(text, ids, [match.start() for match in found], tokens.tolist())

    def _each_once(self, texts: Iterable[str]) -> dict[str, NDArray[np.int32]]:
        different = list(dict.fromkeys(texts))
        return dict(zip(different, self._ids(different, special=False), strict=True))

    def _ids(self, texts: Sequence[str], *, special: bool) -> list[NDArray[np.int32]]:
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=special)
        return [np.fromiter(ids := encoding.ids, np.int32, len(ids)) for encoding in encodings]


def _after_prompt(ids: NDArray[np.int32], start: int, prompt: NDArray[np.int32]) -> Tokens:
    """Loss on what follows the common prefix of *ids* and the prompt, TRL's rule for prompt and completion. The first
    *start* tokens are the prompt's; *prompt* holds those that it goes on with."""
    compared = min(len(ids) - start, len(prompt))
    differ = np.flatnonzero(ids[start : start + compared] != prompt[:compared])
    labels = ids.copy()
    labels[: start + (differ[0] if differ.size else compared)] = IGNORED
    return Tokens(ids, labels)


def _ends(row: _Anchored, spans: Iterable[Span]) -> list[tuple[int, str]]:
    return [row.before(place) for span in spans for place in span]


def _placed(row: _Anchored, spans: list[Span], headers: Mapping[str, NDArray[np.int32]]) -> Tokens | None:
    """The labels of *spans*, or None where a header's tokens are not those that stand there."""
    places = []
    for start, rest in _ends(row, spans):
        header = headers.get(rest)
        if header is None or not np.array_equal(row.ids[start : start + len(header)], header):
            return None
        places.append(start + len(header))
    return _labelled(row.ids, zip(places[::2], places[1::2], strict=True))


def _labelled(ids: NDArray[np.int32], spans: Iterable[tuple[int, int]]) -> Tokens:
    labels = np.full_like(ids, IGNORED)
    for first, stop in spans:
        labels[first:stop] = ids[first:stop]
    return Tokens(ids, labels)


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
