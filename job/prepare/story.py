"""The story of preparation: read → recognise → tokenize and mask → split → pack → Arrow, under the gate's eyes."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from job.errors import BadData
from job.prepare.formats import Example, Reading, to_example
from job.prepare.gate import Gate
from job.prepare.mix import Source, content_hash, copies, in_turns, is_held_out, recognise_sources
from job.prepare.tokenize import RowTokenizer
from job.prepare.write import SplitWriter
from job.records import Prepared, PrepareTask, SplitStats

# Rows tokenized in one call: enough to keep all cores busy, little enough to stay in cache.
CHUNK = 512


@dataclass(frozen=True)
class Candidate:
    """A row that could be read and understood. *content* is 64 bits of it, *times* how often it is trained on."""

    where: str
    example: Example
    content: int
    is_eval: bool
    times: int


def prepare(task: PrepareTask, out: Path) -> Prepared:
    """Tokenize, mask and write the rows of *task* into *out*.

    Raises:
        BadData: the data gate refuses the rows; the message says why and what overrides it.
    """
    tokenizer, gate = RowTokenizer(task.tokenizer, task.chat_template), Gate(task.gate)
    reading = make_reading(task, tokenizer)
    sources = recognise_sources(task, reading)
    # The evaluation rows have the first source's format.
    held_out = [replace(sources[0], files=task.eval_files, weight=1.0)]
    with contextlib.ExitStack() as stack:
        splits = [
            stack.enter_context(SplitWriter(out / f"{name}.arrow", task.max_length, task.packing))
            for name in ("train", "eval")
        ]
        for chunk in _chunks(_candidates(task, sources, reading, gate)):
            _tokenize(chunk, tokenizer, gate, splits)
        for chunk in _chunks(_candidates(task, held_out, reading, gate)):
            _tokenize([replace(candidate, is_eval=True, times=1) for candidate in chunk], tokenizer, gate, splits)
    _judge(task, gate, sources, tokenizer, splits)
    return Prepared(
        format=", ".join(dict.fromkeys(source.format for source in sources)),
        format_reason="; ".join(dict.fromkeys(source.reason for source in sources)),
        train=splits[0].stats,
        eval=splits[1].stats if _evaluates(task) else None,
        findings=gate.findings(),
        chat_template=tokenizer.chat_template if task.chat_template or gate.conversations else None,
    )


def make_reading(task: PrepareTask, tokenizer: RowTokenizer) -> Reading:
    return Reading(task.columns, task.format, task.response_template, tokenizer.has_chat_template)


def _evaluates(task: PrepareTask) -> bool:
    return bool(task.eval_fraction or task.eval_files)


def _candidates(task: PrepareTask, sources: Sequence[Source], reading: Reading, gate: Gate) -> Iterator[Candidate]:
    """The rows of *sources* that can be used; the others go to the gate."""
    for source, row in islice(in_turns(sources), task.row_limit):
        try:
            if isinstance(row, BadData):
                raise row
            example = to_example(row, source.format, reading)
        except BadData as problem:
            gate.bad_row(problem)
            continue
        content = content_hash(row, task.seed)
        is_eval = is_held_out(content, task.eval_fraction)
        times = 1 if is_eval else copies(row, source.weight, task.seed)
        if times:
            yield Candidate(row.where, example, content, is_eval, times)


def _chunks(candidates: Iterator[Candidate]) -> Iterator[list[Candidate]]:
    while chunk := list(islice(candidates, CHUNK)):
        yield chunk


def _tokenize(chunk: list[Candidate], tokenizer: RowTokenizer, gate: Gate, splits: Sequence[SplitWriter]) -> None:
    """Tokens of *chunk* into their splits, training rows first; what the chat template refuses goes to the gate."""
    rows = tokenizer([(candidate.where, candidate.example) for candidate in chunk])
    for candidate, tokens in zip(chunk, rows, strict=True):
        if isinstance(tokens, BadData):
            gate.bad_row(tokens)
            continue
        gate.good_row(candidate.example, candidate.content, candidate.is_eval)
        for _ in range(candidate.times):
            splits[candidate.is_eval].add(tokens)


def _judge(
    task: PrepareTask, gate: Gate, sources: list[Source], tokenizer: RowTokenizer, splits: Sequence[SplitWriter]
) -> None:
    train, held_out = (split.stats for split in splits)
    gate.judge_rows()
    _refuse_empty(train, "JOB_DATASET_URI", task)
    if _evaluates(task):
        _refuse_empty(held_out, "JOB_EVAL_DATASET_URI" if task.eval_files else "JOB_EVAL_FRACTION", task)
    # Other formats end with the end token that is appended, or with whatever follows the prompt.
    chats = any(source.format in ("messages", "sharegpt") for source in sources)
    gate.judge_tokens(train, task.max_length, end_of_turn_trained=tokenizer.end_of_turn_trained or not chats)


def _refuse_empty(stats: SplitStats, setting: str, task: PrepareTask) -> None:
    if stats.rows:
        return
    if stats.dropped_rows:
        raise BadData(
            f"{setting}: all {stats.dropped_rows} rows are cut off at {task.max_length} tokens before anything "
            "to learn begins.",
            "Raise JOB_MAX_LENGTH, as far as the model goes, or shorten the prompts.",
        )
    raise BadData(
        f"{setting}: no row is left for this split.",
        "Give more rows, or change JOB_EVAL_FRACTION or JOB_DATASET_WEIGHTS.",
    )
