"""What stands beside the Arrow files: the first rows as the model sees them, and prompts of rows that were held out."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice

import numpy as np

from job.errors import BadData
from job.prepare.batch import Candidate
from job.prepare.encode import IGNORED, Tokens
from job.prepare.formats import Example, Judged, Pair, Reading, Text, answers
from job.prepare.mix import content_hash, copies, is_held_out
from job.prepare.preferences import to_example
from job.prepare.prompts import Prompt, prompt_of, to_prompt
from job.prepare.read import Row, to_row
from job.prepare.tokenize import PromptTokens, RowTokenizer
from job.records import Format, HeldOut, HeldOutRow, PrepareTask, PreviewPiece, PreviewRow

SHOWN = 5  # rows for a person to look at


def first_rows(
    candidates: Iterable[Candidate], task: PrepareTask, reading: Reading, tokenizer: RowTokenizer
) -> tuple[PreviewRow, ...]:
    """The first rows that are trained on; what cannot be used is left out."""
    shown: list[PreviewRow] = []
    for candidate in candidates:
        row = to_row(candidate.record)
        if isinstance(row, Row) and not _is_eval(row, candidate, task) and copies(row, candidate.weight, task.seed):
            try:
                shown += show(row.where, read_example(row, candidate.format, task, reading), task, tokenizer)
            except BadData:
                continue
        if len(shown) >= SHOWN:
            break
    return tuple(shown[:SHOWN])


def held_out(candidates: Iterable[Candidate], task: PrepareTask, reading: Reading, tokenizer: RowTokenizer) -> HeldOut:
    """The first ``task.held_out_prompts`` rows to evaluate on that have a prompt with room for an answer.

    Raises:
        BadData: there is none.
    """
    found = tuple(islice(_prompts(candidates, task, reading, tokenizer), task.held_out_prompts))
    if not found:
        raise BadData(
            "JOB_EVAL_GENERATE: no held-out row has a prompt that leaves room for an answer of "
            f"{task.answer_tokens} tokens.",
            "Set JOB_RESPONSE_TEMPLATE for rows of text, lower JOB_EVAL_MAX_NEW_TOKENS, or leave JOB_EVAL_GENERATE and "
            "JOB_EVAL_SAMPLES unset.",
        )
    return HeldOut(rows=found)


def _prompts(
    candidates: Iterable[Candidate], task: PrepareTask, reading: Reading, tokenizer: RowTokenizer
) -> Iterator[HeldOutRow]:
    for candidate in candidates:
        row = to_row(candidate.record)
        if not isinstance(row, Row) or not _is_eval(row, candidate, task):
            continue
        try:
            prompt = _asked(row, candidate.format, reading)
        except BadData:
            continue
        if prompt is None or (isinstance(prompt.example, Text) and not prompt.example.text):
            continue
        (tokens,) = tokenizer.prompts([(row.where, prompt.example)])
        if isinstance(tokens, PromptTokens) and _has_room(tokens, task):
            yield HeldOutRow(prompt=tokens.text, input_ids=tuple(tokens.input_ids.tolist()), reference=prompt.reference)


def _asked(row: Row, format_: Format, reading: Reading) -> Prompt | None:
    """What *row* asks, with its good answer; None of one whose answer is bad."""
    if format_ not in ("preference", "unpaired-preference"):
        return to_prompt(row, format_, reading)
    example = to_example(row, format_, reading)
    if isinstance(example, Judged) and not example.is_good:
        return None
    return prompt_of(row.where, answers(example)[0])


def _has_room(tokens: PromptTokens, task: PrepareTask) -> bool:
    """Whether the row is trained on or evaluated as far as its answer, and the model can write one to the end."""
    length = len(tokens.input_ids)
    longest = task.model_max_length
    return 0 < length < task.max_length and (longest is None or length + task.answer_tokens <= longest)


def _is_eval(row: Row, candidate: Candidate, task: PrepareTask) -> bool:
    return candidate.held_out or is_held_out(content_hash(row, task.seed), task.eval_fraction)


def read_example(row: Row, format_: Format, task: PrepareTask, reading: Reading) -> Example:
    """What the model reads of *row*.

    Raises:
        BadData: it cannot be used.
    """
    return to_prompt(row, format_, reading).example if task.prompts else to_example(row, format_, reading)


def show(where: str, example: Example, task: PrepareTask, tokenizer: RowTokenizer) -> list[PreviewRow]:
    """*example*, which stands at *where*, as the model sees it, cut at max_length: one, or an answer each.

    Raises:
        BadData: it cannot be tokenized.
    """
    encode = tokenizer.prompts if task.prompts else tokenizer
    shown = []
    for kind, tokens in zip(_kinds(example), encode([(where, a) for a in answers(example)]), strict=True):
        if isinstance(tokens, BadData):
            raise tokens
        if isinstance(tokens, PromptTokens):
            tokens = Tokens(tokens.input_ids, np.full_like(tokens.input_ids, IGNORED))
        shown.append(_row(where + kind, tokens, task.max_length, tokenizer))
    return shown


def _kinds(example: Example) -> Sequence[str]:
    """What to call each answer of *example*, after where it stands."""
    if isinstance(example, Pair):
        return ", chosen", ", rejected"
    return (", good" if example.is_good else ", bad",) if isinstance(example, Judged) else ("",)


def _row(where: str, tokens: Tokens, max_length: int, tokenizer: RowTokenizer) -> PreviewRow:
    ids, labels = tokens.input_ids[:max_length].tolist(), tokens.labels[:max_length].tolist()
    pieces = []
    for trained, pairs in groupby(zip(ids, labels, strict=True), key=lambda pair: pair[1] != IGNORED):
        text = tokenizer.decode([token for token, _ in pairs])
        pieces.append(PreviewPiece(text=text, trained=trained))
    return PreviewRow(
        where=where, tokens=len(ids), trained_tokens=sum(label != IGNORED for label in labels), pieces=tuple(pieces)
    )
