"""Text from outside, such as rows, answers and names, made fit to be shown: it may be anything."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from job.records import PreviewPiece, PreviewRow
from job.redact import Redactor

# Joiners shape letters of several scripts and emoji, so they stay.
_KEPT = "\n\t\u200c\u200d"
# Controls, marks without width or that turn the direction, lone surrogates, and separators that break lines unasked.
_INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
# Characters of one text, pieces of one row.
TEXT = 1000
PIECES = 12

_mask = Redactor([])


@dataclass(frozen=True)
class Cut:
    """A text of which the middle was *left_out*."""

    head: str
    left_out: int = 0  # characters
    tail: str = ""


@dataclass(frozen=True)
class CutRow:
    """A row of which pieces in the middle were left out."""

    row: PreviewRow
    head: Sequence[PreviewPiece]
    left_out: int = 0  # pieces
    tail: Sequence[PreviewPiece] = ()


def visible(text: str) -> str:
    """*text* with what cannot be seen written as ⟨U+200B⟩, and what looks like a credential masked."""
    shown = (c if c in _KEPT or unicodedata.category(c) not in _INVISIBLE else f"⟨U+{ord(c):04X}⟩" for c in text)
    return _mask("".join(shown))


def cut(text: str) -> Cut:
    """*text* with at most `TEXT` characters, two thirds of them from its beginning."""
    if len(text) <= TEXT:
        return Cut(text)
    tail = TEXT // 3
    return Cut(text[: TEXT - tail], len(text) - TEXT, text[-tail:])


def cut_row(row: PreviewRow) -> CutRow:
    """*row* with at most `PIECES` pieces, half of them from its end, where mostly the last answer stands."""
    pieces = row.pieces
    if len(pieces) <= PIECES:
        return CutRow(row, pieces)
    half = PIECES // 2
    return CutRow(row, pieces[:half], len(pieces) - PIECES, pieces[-half:])
