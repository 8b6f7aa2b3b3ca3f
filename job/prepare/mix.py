"""Several sources of rows: what each looks like, in which order they are read, and how often a row is taken."""

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from job.errors import BadData
from job.prepare.formats import Reading, recognise
from job.prepare.progress import Meter
from job.prepare.read import Record, Row, read_records, read_rows
from job.records import DataFile, Format, PrepareTask

_SHOWN_NAMES = 20
_canonical = json.JSONEncoder(sort_keys=True, default=str).encode


@dataclass(frozen=True)
class Source:
    """The files of one place, how many times an epoch holds each of their rows, and what those look like."""

    files: tuple[DataFile, ...]
    weight: float
    format: Format
    reason: str


def recognise_sources(task: PrepareTask, reading: Reading) -> list[Source]:
    """The sources of the training rows that hold any, each recognised by its first row that can be read.

    Raises:
        BadData: there is no row, or one of a format that cannot be trained on.
    """
    sources = []
    for _, group in groupby(task.train_files, key=lambda file: file.source):
        files = tuple(group)
        if first := _first_row(files, skip_bad=task.gate.bad_rows == "skip"):
            format_, reason = recognise(first, reading)
            sources.append(Source(files, files[0].weight, format_, reason))
    if not sources:
        names = ", ".join(file.name for file in task.train_files[:_SHOWN_NAMES])
        raise BadData(f"JOB_DATASET_URI: {names} holds no rows.", "Give a file with at least one row.")
    return sources


def _first_row(files: tuple[DataFile, ...], *, skip_bad: bool) -> Row | None:
    """The first row of *files*; with *skip_bad* the first that can be read, as the gate judges the others."""
    problem: BadData | None = None
    for row in read_rows(files):
        if isinstance(row, Row):
            return row
        problem = problem or row
        if not skip_bad:
            break
    if problem:
        raise problem
    return None


def in_turns(sources: Sequence[Source], meter: Meter) -> Iterator[tuple[Source, Record]]:
    """A record of each source in turn, so that the first thousand show all of them."""
    turns = deque((source, read_records(source.files, meter)) for source in sources)
    while turns:
        source, rows = turns.popleft()
        if row := next(rows, None):
            yield source, row
            turns.append((source, rows))


def content_hash(row: Row, seed: int, purpose: bytes = b"") -> int:
    """64 bits of *row*'s content; another *purpose* gives others."""
    content = _canonical(row.fields).encode()
    return int.from_bytes(
        hashlib.blake2b(content, digest_size=8, key=str(seed).encode(), person=purpose).digest(), "big"
    )


def is_held_out(content: int, fraction: float) -> bool:
    """Whether a row with that hash belongs to the evaluation split: by content, so that equal rows never stand on both
    sides and the split does not move when rows are added."""
    return content < fraction * 2**64


def copies(row: Row, weight: float, seed: int) -> int:
    """How many times an epoch holds *row* of a source with that weight. Of a fraction, a hash of the row picks its
    share; it is another hash than that of `is_held_out`, or the rows left for training would be a skewed choice."""
    whole = int(weight)
    return whole + (weight > whole and content_hash(row, seed, b"weight") < (weight - whole) * 2**64)
