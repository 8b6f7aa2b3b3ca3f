"""What one process makes of some records: tokens for both splits, and what the gate is to know of the rows."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from job.errors import BadData
from job.prepare.encode import IGNORED, Tokens
from job.prepare.formats import Chat, Example, Reading, oddities, to_example
from job.prepare.mix import content_hash, copies, is_held_out
from job.prepare.read import Record, to_row
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

    *input_ids* and *labels* hold the rows one after the other, *lengths* tokens each. *contents* are 64 bits of each
    row's content, once however often it is trained on. *texts* stand beside the tokens of each prompt.
    """

    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    lengths: NDArray[np.int64]
    contents: NDArray[np.uint64]
    truncated_rows: int
    truncated_tokens: int
    dropped_rows: int
    dropped_tokens: int
    texts: list[tuple[str | None, ...]] = field(default_factory=list)


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
        tokens = iter(self.tokenizer([(row.where, row.example) for row in accepted]))
        pairs = [(row, next(tokens)) if isinstance(row, _Accepted) else (None, row) for row in outcomes]
        good = [(row, ids) for row, ids in pairs if row and isinstance(ids, Tokens)]
        return Batch(
            problems=[problem for _, problem in pairs if isinstance(problem, BadData)],
            oddities=Counter(odd for row, _ in good if isinstance(row.example, Chat) for odd in oddities(row.example)),
            conversations=sum(isinstance(row.example, Chat) for row, _ in good),
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

    def _split(self, rows: Sequence[tuple[_Accepted, Tokens]], *, is_eval: bool) -> SplitBatch:
        mine = [(row, tokens) for row, tokens in rows if row.is_eval is is_eval]
        whole = [tokens for row, tokens in mine for _ in range(row.times)]
        cut = [Tokens(row.input_ids[: self.task.max_length], row.labels[: self.task.max_length]) for row in whole]
        kept = [row for row in cut if (row.labels != IGNORED).any()]
        tokens, cut_tokens, kept_tokens = map(_count, (whole, cut, kept))
        return SplitBatch(
            input_ids=_joined(row.input_ids for row in kept),
            labels=_joined(row.labels for row in kept),
            lengths=np.array([len(row.input_ids) for row in kept], dtype=np.int64),
            contents=np.array([row.content for row, _ in mine], dtype=np.uint64),
            truncated_rows=sum(len(row.input_ids) > self.task.max_length for row in whole),
            truncated_tokens=tokens - cut_tokens,
            dropped_rows=len(cut) - len(kept),
            dropped_tokens=cut_tokens - kept_tokens,
        )


def _count(rows: Sequence[Tokens]) -> int:
    return sum(len(row.input_ids) for row in rows)


def _joined(arrays: Iterator[NDArray[np.int32]]) -> NDArray[np.int32]:
    return np.concatenate([np.empty(0, dtype=np.int32), *arrays])
