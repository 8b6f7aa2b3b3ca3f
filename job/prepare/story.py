"""The story of preparation: read → recognise → tokenize and mask → split → pack → Arrow, under the gate's eyes.

This process reads and writes; a crew of others does what lies between, on chunks of records.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from job.errors import BadData
from job.events import EventLog
from job.prepare.batch import Batch, Candidate, RowWorker
from job.prepare.beside import first_rows, held_out
from job.prepare.crew import Crew
from job.prepare.formats import Reading
from job.prepare.gate import Gate, longer
from job.prepare.json_rows import JsonLine
from job.prepare.mix import Source, in_turns, recognise_sources
from job.prepare.progress import Meter, Progress
from job.prepare.prompts import COLUMNS, PromptWorker
from job.prepare.read import Record, Row
from job.prepare.tokenize import RowTokenizer
from job.prepare.write import SplitWriter
from job.records import HELD_OUT, PROGRESS, Prepared, PrepareTask, SplitStats
from job.rundir import write_json

# Records handed over at once: enough that handing over costs nothing, few enough that all processes end together.
CHUNK = 64
CHUNK_BYTES = 2**17


def prepare(task: PrepareTask, out: Path) -> Prepared:
    """Tokenize, mask and write the rows of *task* into *out*.

    Raises:
        BadData: the data gate refuses the rows; the message says why and what overrides it.
    """
    return write_rows(task, out, RowTokenizer(task.tokenizer, task.chat_template, task.template_time))


def write_rows(task: PrepareTask, out: Path, tokenizer: RowTokenizer) -> Prepared:
    """`prepare` with the tokenizer loaded."""
    reading, gate = make_reading(task, tokenizer), Gate(task.gate)
    sources = recognise_sources(task, reading)
    meter = _meter(task)
    progress = Progress(EventLog(out / PROGRESS), meter, task.row_limit)
    with contextlib.ExitStack() as stack:
        crew = stack.enter_context(Crew[list[Candidate], Batch](_worker(task, reading, tokenizer), task.processes))
        texts = COLUMNS if task.prompts else ()
        train, eval_split = (
            stack.enter_context(SplitWriter(out / f"{name}.arrow", task.max_length, task.packing, task.method, texts))
            for name in ("train", "eval")
        )
        for batch in crew.map(_chunks(_candidates(task, sources, meter))):
            gate.add(batch)
            train.add(batch.train)
            eval_split.add(batch.eval)
            progress.add(batch.rows)
    _judge(task, gate, sources, tokenizer, (train.stats, eval_split.stats))
    if task.held_out_prompts:
        of_eval = _to_evaluate_on if task.eval_files else _of_sources
        write_json(out / HELD_OUT, held_out(of_eval(task, sources, _meter(task)), task, reading, tokenizer))
    return Prepared(
        format=", ".join(dict.fromkeys(source.format for source in sources)),
        format_reason="; ".join(dict.fromkeys(source.reason for source in sources)),
        read_share=meter.stopped_at,
        train=train.stats,
        eval=eval_split.stats if _evaluates(task) else None,
        findings=gate.findings(),
        chat_template=tokenizer.chat_template if task.chat_template or gate.conversations else None,
        template_time=tokenizer.template_time if gate.conversations else None,
        first_rows=first_rows(_of_sources(task, sources, _meter(task)), task, reading, tokenizer),
    )


def _meter(task: PrepareTask) -> Meter:
    return Meter((*task.train_files, *task.eval_files))


def make_reading(task: PrepareTask, tokenizer: RowTokenizer) -> Reading:
    return Reading(task.columns, task.format, task.response_template, tokenizer.has_chat_template, task.method)


def _worker(task: PrepareTask, reading: Reading, tokenizer: RowTokenizer) -> RowWorker | PromptWorker:
    if task.prompts:
        return PromptWorker(task, task.prompts, reading, tokenizer)
    return RowWorker(task, reading, tokenizer)


def _evaluates(task: PrepareTask) -> bool:
    return bool(task.eval_fraction or task.eval_files)


def _candidates(task: PrepareTask, sources: Sequence[Source], meter: Meter) -> Iterator[Candidate]:
    """The records of all sources, then those to evaluate on, which have the first source's format."""
    yield from _of_sources(task, sources, meter)
    meter.stop()  # before the readers are closed, which makes them count as done
    yield from _to_evaluate_on(task, sources, meter)


def _of_sources(task: PrepareTask, sources: Sequence[Source], meter: Meter) -> Iterator[Candidate]:
    for source, record in islice(in_turns(sources, meter), task.row_limit):
        yield Candidate(record, source.format, source.weight, held_out=False)


def _to_evaluate_on(task: PrepareTask, sources: Sequence[Source], meter: Meter) -> Iterator[Candidate]:
    held_out = [replace(sources[0], files=task.eval_files)]
    for source, record in islice(in_turns(held_out, meter), task.row_limit):
        yield Candidate(record, source.format, weight=1.0, held_out=True)


def _chunks(candidates: Iterator[Candidate]) -> Iterator[list[Candidate]]:
    chunk: list[Candidate] = []
    size = 0
    for candidate in candidates:
        chunk.append(candidate)
        size += _size(candidate.record)
        if len(chunk) == CHUNK or size > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _size(record: Record) -> int:
    """Bytes, about."""
    match record:
        case JsonLine():
            return len(record.raw)
        case Row():
            return record.size
        case _:
            return 0


def _judge(
    task: PrepareTask,
    gate: Gate,
    sources: Sequence[Source],
    tokenizer: RowTokenizer,
    stats: tuple[SplitStats, SplitStats],
) -> None:
    train, held_out = stats
    gate.judge_rows()
    _refuse_empty(train, "JOB_DATASET_URI", task)
    if _evaluates(task):
        _refuse_empty(held_out, "JOB_EVAL_DATASET_URI" if task.eval_files else "JOB_EVAL_FRACTION", task)
    _refuse_few(train, task)
    gate.judge_tokens(train, task)
    gate.judge_labels(train, task)
    # Other formats end with the end token that is appended, or with whatever follows the prompt.
    if not task.prompts and any(source.format in ("messages", "sharegpt") for source in sources):
        gate.judge_turns(tokenizer.taught)


def _refuse_few(train: SplitStats, task: PrepareTask) -> None:
    """Upstream would run no step at all, and say nothing."""
    if task.prompts and task.row_limit is None and train.rows < task.prompts.per_step:
        raise BadData(
            f"JOB_DATASET_URI: {train.rows} prompts are fewer than the {task.prompts.per_step} of one step.",
            "Lower JOB_GLOBAL_BATCH_SIZE, which counts answers, or raise JOB_NUM_GENERATIONS.",
        )


def _refuse_empty(stats: SplitStats, setting: str, task: PrepareTask) -> None:
    if stats.rows:
        return
    if stats.dropped_rows and task.method == "reward":
        raise BadData(
            f"{setting}: all {stats.dropped_rows} pairs hold an answer of more than {task.max_length} tokens with its "
            "prompt, or two that are equal.",
            f"{longer(task)}shorten the answers.",
        )
    if stats.dropped_rows:
        raise BadData(
            f"{setting}: all {stats.dropped_rows} rows are cut off at {task.max_length} tokens before anything "
            "to learn begins.",
            f"{longer(task)}shorten the prompts.",
        )
    raise BadData(
        f"{setting}: no row is left for this split.",
        "Give more rows, or change JOB_EVAL_FRACTION or JOB_DATASET_WEIGHTS.",
    )
