"""The first rows as the model sees them."""

from itertools import groupby, islice

import numpy as np

from job.errors import BadData
from job.prepare.encode import IGNORED, Tokens
from job.prepare.formats import Chat, Example, Judged, Pair, answers
from job.prepare.mix import in_turns, recognise_sources
from job.prepare.preferences import to_example
from job.prepare.progress import Meter
from job.prepare.prompts import to_prompt
from job.prepare.read import to_row
from job.prepare.story import make_reading
from job.prepare.tokenize import PromptTokens, RowTokenizer
from job.records import PrepareTask, Preview, PreviewPiece, PreviewRow


def preview(task: PrepareTask) -> Preview:
    """The first ``task.row_limit`` rows, cut at max_length as training would cut them.

    Raises:
        BadData: one of them cannot be used.
    """
    tokenizer = RowTokenizer(task.tokenizer, task.chat_template)
    reading = make_reading(task, tokenizer)
    sources = recognise_sources(task, reading)
    rows, conversations = [], False
    for source, record in islice(in_turns(sources, Meter(task.train_files)), task.row_limit):
        row = to_row(record)
        if isinstance(row, BadData):
            raise row
        example = (
            to_prompt(row, source.format, reading).example if task.prompts else to_example(row, source.format, reading)
        )
        conversations |= isinstance(answers(example)[0], Chat)
        encode = tokenizer.prompts if task.prompts else tokenizer
        for kind, tokens in zip(_kinds(example), encode([(row.where, a) for a in answers(example)]), strict=True):
            if isinstance(tokens, BadData):
                raise tokens
            if isinstance(tokens, PromptTokens):
                tokens = Tokens(tokens.input_ids, np.full_like(tokens.input_ids, IGNORED))
            rows.append(_row(row.where + kind, tokens, task.max_length, tokenizer))
    return Preview(
        format=sources[0].format,
        format_reason=sources[0].reason,
        chat_template=tokenizer.chat_template if task.chat_template or conversations else None,
        rows=tuple(rows),
    )


def _kinds(example: Example) -> tuple[str, ...]:
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
