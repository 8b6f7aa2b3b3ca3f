"""``python -m job.prepare TASK_JSON OUT_DIR``: write ``train.arrow``, ``eval.arrow`` and ``prepared.json``."""

import contextlib
import hashlib
import json
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path

from job.child import run_child
from job.errors import BadData
from job.prepare.formats import Example, Format, recognise, to_example
from job.prepare.read import Row, read_rows
from job.prepare.tokenize import RowTokenizer
from job.prepare.write import SplitWriter
from job.records import DataFile, Prepared, PrepareTask, SplitStats
from job.rundir import read_record, write_json

# Rows tokenized in one call: enough to keep all cores busy, little enough to stay in cache.
CHUNK = 512
SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class Source:
    """The files of one place, how many times an epoch holds each of their rows, and what those look like."""

    files: tuple[DataFile, ...]
    weight: float
    format: Format
    reason: str


def prepare(task: PrepareTask, out: Path) -> Prepared:
    """Tokenize, mask and write the rows of *task* into *out*.

    Raises:
        BadData: there is no row, a row cannot be used, or no row has anything to learn.
    """
    tokenizer = RowTokenizer(task.tokenizer)
    sources = _recognise(task, tokenizer)
    with contextlib.ExitStack() as stack:
        train = stack.enter_context(SplitWriter(out / "train.arrow", task.max_length, task.packing))
        held_out = (
            stack.enter_context(SplitWriter(out / "eval.arrow", task.max_length, task.packing))
            if _evaluates(task)
            else None
        )
        for is_eval, chunk in _chunks(task, sources, tokenizer):
            (held_out if is_eval and held_out else train).add(tokenizer(chunk))
        # The evaluation rows have the first source's format.
        for _, chunk in _chunks(task, [replace(sources[0], files=task.eval_files, weight=1.0)], tokenizer):
            if held_out:
                held_out.add(tokenizer(chunk))
    _refuse_empty(train.stats, "JOB_DATASET_URI", task)
    if held_out:
        _refuse_empty(held_out.stats, "JOB_EVAL_DATASET_URI" if task.eval_files else "JOB_EVAL_FRACTION", task)
    return Prepared(
        format=", ".join(dict.fromkeys(source.format for source in sources)),
        format_reason="; ".join(dict.fromkeys(source.reason for source in sources)),
        train=train.stats,
        eval=held_out.stats if held_out else None,
    )


def _evaluates(task: PrepareTask) -> bool:
    return bool(task.eval_fraction or task.eval_files)


def _recognise(task: PrepareTask, tokenizer: RowTokenizer) -> list[Source]:
    """The sources of the training rows that hold any."""
    sources = []
    for _, group in groupby(task.train_files, key=lambda file: file.source):
        files = tuple(group)
        first = next(read_rows(files), None)
        if isinstance(first, BadData):
            raise first
        if first:
            format_, reason = recognise(first, task.columns, tokenizer.has_chat_template)
            sources.append(Source(files, files[0].weight, format_, reason))
    if not sources:
        names = ", ".join(file.name for file in task.train_files[:SHOWN_PROBLEMS])
        raise BadData(f"JOB_DATASET_URI: {names} holds no rows.", "Give a file with at least one row.")
    return sources


def _in_turns(sources: Sequence[Source]) -> Iterator[tuple[Source, Row | BadData]]:
    """A row of each source in turn, so that the first thousand show all of them."""
    turns = deque((source, read_rows(source.files)) for source in sources)
    while turns:
        source, rows = turns.popleft()
        if row := next(rows, None):
            yield source, row
            turns.append((source, rows))


def _chunks(
    task: PrepareTask, sources: Sequence[Source], tokenizer: RowTokenizer
) -> Iterator[tuple[bool, list[tuple[str, Example]]]]:
    """Examples of *sources* in chunks, training and held-out rows apart, each as often as its weight says.

    Raises:
        BadData: rows that cannot be used, all of them in one message.
    """
    chunks: dict[bool, list[tuple[str, Example]]] = {False: [], True: []}
    problems = Problems()
    for source, row in islice(_in_turns(sources), task.row_limit):
        try:
            if isinstance(row, BadData):
                raise row
            example = to_example(row, source.format, task.columns, tokenizer.has_chat_template)
        except BadData as problem:
            problems.add(problem)
            continue
        is_eval = is_held_out(row, task.eval_fraction, task.seed)
        chunk = chunks[is_eval]
        chunk += [(row.where, example)] * (1 if is_eval else copies(row, source.weight, task.seed))
        if len(chunk) >= CHUNK:
            yield is_eval, chunk.copy()
            chunk.clear()
    problems.raise_all()
    yield from ((is_eval, chunk) for is_eval, chunk in chunks.items() if chunk)


def is_held_out(row: Row, fraction: float, seed: int) -> bool:
    """Whether *row* belongs to the evaluation split: a hash of its content, so that equal rows never stand on both
    sides and the split does not move when rows are added."""
    return bool(fraction) and _position(row, seed) < fraction


def copies(row: Row, weight: float, seed: int) -> int:
    """How many times an epoch holds *row* of a source with that weight. Of a fraction, a hash of the row picks its
    share; it is another hash than that of `is_held_out`, or the rows left for training would be a skewed choice."""
    whole = int(weight)
    return whole + (weight > whole and _position(row, seed, b"weight") < weight - whole)


def _position(row: Row, seed: int, purpose: bytes = b"") -> float:
    """Where the content of *row* falls between 0 and 1."""
    content = json.dumps(row.fields, sort_keys=True, default=str).encode()
    digest = hashlib.blake2b(content, digest_size=8, key=str(seed).encode(), person=purpose).digest()
    return int.from_bytes(digest, "big") / 2**64


class Problems:
    """Rows that cannot be used: all are counted, and so many kept as will be shown."""

    def __init__(self) -> None:
        self._first: list[BadData] = []
        self._count = 0

    def add(self, problem: BadData) -> None:
        self._count += 1
        if len(self._first) < SHOWN_PROBLEMS:
            self._first.append(problem)

    def raise_all(self) -> None:
        """Nothing, if there were none.

        Raises:
            BadData: there were; the message lists them.
        """
        if self._count == 1:
            raise self._first[0]
        if self._first:
            shown = "\n".join(f"  - {problem}" for problem in self._first)
            more = f"\n  and {self._count - SHOWN_PROBLEMS} more" if self._count > SHOWN_PROBLEMS else ""
            raise BadData(f"{self._count} rows cannot be used:\n{shown}{more}")


def _refuse_empty(stats: SplitStats, setting: str, task: PrepareTask) -> None:
    if stats.rows:
        return
    if stats.dropped_rows:
        raise BadData(
            f"{setting}: all {stats.dropped_rows} rows are cut off at JOB_MAX_LENGTH={task.max_length} before anything "
            "to learn begins.",
            "Raise JOB_MAX_LENGTH or shorten the prompts.",
        )
    raise BadData(
        f"{setting}: no row is left for this split.",
        "Give more rows, or change JOB_EVAL_FRACTION or JOB_DATASET_WEIGHTS.",
    )


def main() -> None:
    task_path, out = Path(sys.argv[1]), Path(sys.argv[2])

    def story() -> None:
        write_json(out / "prepared.json", prepare(read_record(task_path, PrepareTask), out))

    run_child(story, out / "error.json")


if __name__ == "__main__":
    main()
