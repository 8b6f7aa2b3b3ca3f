"""The first rows as the model sees them."""

from itertools import islice

from job.errors import BadData
from job.prepare.beside import read_example, show
from job.prepare.formats import Chat, answers
from job.prepare.mix import in_turns, recognise_sources
from job.prepare.progress import Meter
from job.prepare.read import to_row
from job.prepare.story import make_reading
from job.prepare.tokenize import RowTokenizer
from job.records import PrepareTask, Preview


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
        example = read_example(row, source.format, task, reading)
        conversations |= isinstance(answers(example)[0], Chat)
        rows += show(row.where, example, task, tokenizer)
    return Preview(
        format=sources[0].format,
        format_reason=sources[0].reason,
        chat_template=tokenizer.chat_template if task.chat_template or conversations else None,
        rows=tuple(rows),
    )
