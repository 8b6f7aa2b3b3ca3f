"""What one process makes of some records: tokens for both splits, and what the gate is to know of the rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from job.errors import BadData
from job.prepare.encode import Tokens
from job.prepare.formats import Chat, Example, Judged, Reading, answers, oddities
from job.prepare.mix import content_hash, copies, is_held_out
from job.prepare.preferences import to_example
from job.prepare.read import Record, to_row
from job.prepare.shape import COLUMNS, FLAG, Shaped, shape
from job.prepare.tokenize import RowTokenizer
from job.records import Format, PrepareTask


class Candidate(NamedTuple):
    """A record that may become a row, of a source with that *format* and *weight*; *held_out* by its source."""

    record: Record
    format: Format
    weight: float
    held_out: bool


@dataclass(frozen=True)
class SplitBatch:
    """Rows of one split, cut to max_length, without those that have nothing left to learn.

    *columns* hold the rows one after the other, *sizes* elements each; *lengths* are the tokens of the longest sequence
    of each row. *contents* are 64 bits of each source row's content, once however often it is trained on. *texts* stand
    beside the tokens of each prompt.
    """

    columns: dict[str, NDArray[np.int32]]
    sizes: dict[str, NDArray[np.int64]]
    lengths: NDArray[np.int64]
    contents: NDArray[np.uint64]
    tokens: int = 0
    trained_tokens: int = 0
    truncated_rows: int = 0
    truncated_tokens: int = 0
    dropped_rows: int = 0
    dropped_tokens: int = 0
    texts: list[tuple[str | None, ...]] = field(default_factory=list)

    @property
    def good_rows(self) -> int:
        """Rows of an answer that is labelled as good."""
        return int(self.columns[FLAG].sum()) if FLAG in self.columns else 0


def split_batch(method: str, rows: Sequence[Shaped], contents: Sequence[int]) -> SplitBatch:
    """*rows* for *method*, made of source rows with *contents*."""
    kept = [(row, row.columns) for row in rows if row.columns is not None]
    dropped = [row for row in rows if row.columns is None]
    by_name = {name: [columns[number] for _, columns in kept] for number, name in enumerate(COLUMNS[method])}
    return SplitBatch(
        columns={name: _joined(values) for name, values in by_name.items()},
        sizes={name: np.array([len(each) for each in values], dtype=np.int64) for name, values in by_name.items()},
        lengths=np.array([row.longest for row, _ in kept], dtype=np.int64),
        contents=np.array(contents, dtype=np.uint64),
        tokens=sum(row.tokens for row, _ in kept),
        trained_tokens=sum(row.trained for row, _ in kept),
        truncated_rows=sum(row.cut > 0 for row in rows),
        truncated_tokens=sum(row.cut for row in rows),
        dropped_rows=len(dropped),
        dropped_tokens=sum(row.tokens for row in dropped),
    )


@dataclass(frozen=True)
class Batch:
    """What became of some candidates, in their order."""

    problems: list[BadData]  # one for each row that cannot be used
    oddities: Counter[str]
    train: SplitBatch
    eval: SplitBatch
    conversations: int = 0  # among the rows that can be used

    @property
    def rows(self) -> int:
        return len(self.problems) + len(self.train.contents) + len(self.eval.contents)


@dataclass(frozen=True)
class _Accepted:
    """A row that can be used: in which split it stands, and how often."""

    where: str
    example: Example
    content: int
    is_eval: bool
    times: int


@dataclass(frozen=True)
class RowWorker:
    """Reads, understands, tokenizes and cuts rows."""

    task: PrepareTask
    reading: Reading
    tokenizer: RowTokenizer

    def __call__(self, candidates: Sequence[Candidate]) -> Batch:
        """Raises:
        BadData: the tokenizer or its chat template cannot serve any row.
        """
        outcomes = [self._accept(candidate) for candidate in candidates]
        accepted = [row for row in outcomes if isinstance(row, _Accepted)]
        tokens = iter(self.tokenizer([(row.where, answer) for row in accepted for answer in answers(row.example)]))
        pairs = [
            (row, [next(tokens) for _ in answers(row.example)]) if isinstance(row, _Accepted) else (None, [row])
            for row in outcomes
        ]
        good = [(row, whole) for row, found in pairs if row and len(whole := _tokens_among(found)) == len(found)]
        problems = [[one for one in found if isinstance(one, BadData)] for _, found in pairs]
        return Batch(
            problems=[found[0] for found in problems if found],
            oddities=Counter(odd for row, _ in good for odd in _oddities(row.example)),
            conversations=sum(isinstance(answers(row.example)[0], Chat) for row, _ in good),
            train=self._split(good, is_eval=False),
            eval=self._split(good, is_eval=True),
        )

    def _accept(self, candidate: Candidate) -> _Accepted | BadData | None:
        """The candidate as a row, the problem with it, or None where the source's weight leaves it out."""
        row = to_row(candidate.record)
        if isinstance(row, BadData):
            return row
        try:
            example = to_example(row, candidate.format, self.reading)
        except BadData as problem:
            return problem
        content = content_hash(row, self.task.seed)
        is_eval = candidate.held_out or is_held_out(content, self.task.eval_fraction)
        times = 1 if is_eval else copies(row, candidate.weight, self.task.seed)
        return _Accepted(row.where, example, content, is_eval, times) if times else None

    def _split(self, rows: Sequence[tuple[_Accepted, list[Tokens]]], *, is_eval: bool) -> SplitBatch:
        mine = [(row, tokens) for row, tokens in rows if row.is_eval is is_eval]
        shaped = [
            one
            for row, tokens in mine
            for one in shape(self.task.method, tokens, _is_good(row.example), self.task.max_length) * row.times
        ]
        return split_batch(self.task.method, shaped, [row.content for row, _ in mine])


def _is_good(example: Example) -> bool | None:
    return example.is_good if isinstance(example, Judged) else None


def _oddities(example: Example) -> set[str]:
    return {odd for answer in answers(example) if isinstance(answer, Chat) for odd in oddities(answer)}


def _tokens_among(found: Sequence[Tokens | BadData | None]) -> list[Tokens]:
    return [one for one in found if isinstance(one, Tokens)]


def _joined(arrays: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    return np.concatenate([np.empty(0, dtype=np.int32), *arrays])
