"""``python -m job.prepare TASK_JSON OUT_DIR``: write ``train.arrow``, ``eval.arrow`` and ``prepared.json``."""

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterator
from itertools import islice
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


def prepare(task: PrepareTask, out: Path) -> Prepared:
    """Tokenize, mask and write the rows of *task* into *out*.

    Raises:
        BadData: there is no row, a row cannot be used, or no row has anything to learn.
    """
    tokenizer = RowTokenizer(task.tokenizer)
    format_, reason = _recognise(task, tokenizer)
    with contextlib.ExitStack() as stack:
        train = stack.enter_context(SplitWriter(out / "train.arrow", task.max_length, task.packing))
        held_out = (
            stack.enter_context(SplitWriter(out / "eval.arrow", task.max_length, task.packing))
            if _evaluates(task)
            else None
        )
        for is_eval, chunk in _chunks(task, task.train_files, format_, tokenizer):
            (held_out if is_eval and held_out else train).add(tokenizer(chunk))
        for _, chunk in _chunks(task, task.eval_files, format_, tokenizer):
            if held_out:
                held_out.add(tokenizer(chunk))
    _refuse_empty(train.stats, "JOB_DATASET_URI", task)
    if held_out:
        _refuse_empty(held_out.stats, "JOB_EVAL_DATASET_URI" if task.eval_files else "JOB_EVAL_FRACTION", task)
    return Prepared(format=format_, format_reason=reason, train=train.stats, eval=held_out.stats if held_out else None)


def _evaluates(task: PrepareTask) -> bool:
    return bool(task.eval_fraction or task.eval_files)


def _recognise(task: PrepareTask, tokenizer: RowTokenizer) -> tuple[Format, str]:
    names = ", ".join(file.name for file in task.train_files)
    first = next(read_rows(task.train_files), None)
    if first is None:
        raise BadData(f"JOB_DATASET_URI: {names} holds no rows.", "Give a file with at least one row.")
    if isinstance(first, BadData):
        raise first
    return recognise(first, task.columns, tokenizer.has_chat_template)


def _chunks(
    task: PrepareTask, files: tuple[DataFile, ...], format_: Format, tokenizer: RowTokenizer
) -> Iterator[tuple[bool, list[tuple[str, Example]]]]:
    """Examples of *files* in chunks, training and held-out rows apart.

    Raises:
        BadData: rows that cannot be used, all of them in one message.
    """
    chunks: dict[bool, list[tuple[str, Example]]] = {False: [], True: []}
    problems: list[BadData] = []
    for row in islice(read_rows(files), task.row_limit):
        try:
            if isinstance(row, BadData):
                raise row
            example = to_example(row, format_, task.columns, tokenizer.has_chat_template)
        except BadData as problem:
            problems.append(problem)
            continue
        chunk = chunks[is_held_out(row, task.eval_fraction, task.seed)]
        chunk.append((row.where, example))
        if len(chunk) == CHUNK:
            yield chunk is chunks[True], chunk.copy()
            chunk.clear()
    if problems:
        raise _all_problems(problems)
    yield from ((is_eval, chunk) for is_eval, chunk in chunks.items() if chunk)


def is_held_out(row: Row, fraction: float, seed: int) -> bool:
    """Whether *row* belongs to the evaluation split: a hash of its content, so that equal rows never stand on both
    sides and the split does not move when rows are added."""
    if not fraction:
        return False
    content = json.dumps(row.fields, sort_keys=True, default=str).encode()
    digest = hashlib.blake2b(content, digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big") / 2**64 < fraction


def _all_problems(problems: list[BadData]) -> BadData:
    if len(problems) == 1:
        return problems[0]
    shown = "\n".join(f"  - {problem}" for problem in problems[:SHOWN_PROBLEMS])
    more = f"\n  and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
    return BadData(f"{len(problems)} rows cannot be used:\n{shown}{more}")


def _refuse_empty(stats: SplitStats, setting: str, task: PrepareTask) -> None:
    if stats.rows:
        return
    if stats.dropped_rows:
        raise BadData(
            f"{setting}: all {stats.dropped_rows} rows are cut off at JOB_MAX_LENGTH={task.max_length} before anything "
            "to learn begins.",
            "Raise JOB_MAX_LENGTH or shorten the prompts.",
        )
    raise BadData(f"{setting}: no row is left for this split.", "Give more rows or another JOB_EVAL_FRACTION.")


def main() -> None:
    task_path, out = Path(sys.argv[1]), Path(sys.argv[2])

    def story() -> None:
        write_json(out / "prepared.json", prepare(read_record(task_path, PrepareTask), out))

    run_child(story, out / "error.json")


if __name__ == "__main__":
    main()
