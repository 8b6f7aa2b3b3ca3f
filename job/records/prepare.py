"""What ``job.prepare`` is asked for and what it answers."""

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from job.records.base import Allowance, Format, Record


class DataFile(Record):
    """One local source file, with the name the user knows it by."""

    path: Path
    name: str
    identity: str
    source: int = 0  # which of the places in JOB_DATASET_URI it comes from
    weight: float = 1.0  # how many times an epoch holds each of its rows


class GateSettings(Record):
    """What the data gate lets through."""

    bad_rows: Literal["fail", "skip"]
    max_bad_fraction: float
    allow: tuple[Allowance, ...]


HELD_OUT = "held_out.json"
# The events of a preparation that takes long, in its folder.
PROGRESS = "progress.jsonl"


class ChatTemplateChoice(Record):
    """The chat template that renders conversations, and what the tokenizer must have for it."""

    name: str
    reason: str = ""
    source: str | None = None  # Jinja; None: the tokenizer's own stays
    added_tokens: dict[str, bool] = Field(
        default={}
    )  # tokens to add where they are lacking -> whether they are special
    eos_token: str | None = None  # what ends a turn, where the tokenizer has another end token of its own

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name


class PromptSettings(Record):
    """Of rows that the model answers itself: what their own answers are to be compared by, and the room for its."""

    scores: tuple[str, ...]  # names in job.scores
    marker: str | None
    max_completion_length: int
    per_step: int = 1  # prompts of one optimizer step, which is never of fewer


class PrepareTask(Record):
    """What ``job.prepare`` is asked to do."""

    method: str = "sft"  # that the rows are for
    train_files: tuple[DataFile, ...]
    eval_files: tuple[DataFile, ...] = ()
    tokenizer: Path
    tokenizer_identity: str
    columns: dict[str, str]
    format: Format | None
    response_template: str | None
    chat_template: ChatTemplateChoice | None = None  # None: nothing was asked for
    gate: GateSettings
    max_length: int
    model_max_length: int | None = None  # None: the model does not say
    eval_fraction: float
    seed: int
    packing: bool
    prompts: PromptSettings | None = None  # None: the rows hold what is to be learned
    held_out_prompts: int = 0  # rows to evaluate on whose prompts are kept, to be answered
    answer_tokens: int = 0  # room for each of those answers
    row_limit: int | None = None  # None: every row
    template_time: datetime | None = None  # what a chat template is told that asks for the date; None: the present
    processes: int = 1  # that share the work


class PreviewPiece(Record):
    """A stretch of a row: its text with special tokens visible, and whether it carries loss."""

    text: str
    trained: bool


class PreviewRow(Record):
    """One row as the model sees it."""

    where: str
    tokens: int
    trained_tokens: int
    pieces: tuple[PreviewPiece, ...]


class SplitStats(Record):
    """One prepared split. Counts are after truncation to max_length."""

    rows: int
    sequences: int  # what the trainer iterates over: rows, or packs
    tokens: int  # that pass through the model: of a pair those of both sequences
    trained_tokens: int
    max_tokens: int
    lengths: tuple[int, ...]  # tokens of the shortest row, of those at each further 5 % by length, and of the longest
    truncated_rows: int
    truncated_tokens: int  # cut off
    dropped_rows: int  # nothing left to learn after truncation
    dropped_tokens: int  # in dropped rows, after truncation
    good_rows: int = 0  # of answers labelled as good, where rows have labels


class Findings(Record):
    """What the data gate counted over all rows."""

    bad_rows: int = Field(description="Rows that cannot be used; left out with JOB_BAD_ROWS=skip.")
    first_bad_rows: tuple[str, ...] = Field(description="The first 20 of them, each with file, line and reason.")
    duplicate_rows: int = Field(description="Training rows whose content stands in an earlier one.")
    rows_in_train_and_eval: int = Field(description="Evaluation rows whose content is trained on too.")
    oddities: dict[str, int] = Field(description="What is unusual about conversations, and in how many rows.")


class Prepared(Record):
    """The result of ``job.prepare``: Arrow files ``train.arrow`` and ``eval.arrow`` beside this record."""

    format: str
    format_reason: str
    read_share: float  # of the training files' bytes: below 1 with a row limit
    train: SplitStats
    eval: SplitStats | None
    findings: Findings
    chat_template: ChatTemplateChoice | None = None  # what renders conversations; None: no row is one
    template_time: datetime | None = None  # what it was told of the time, local; None: it does not ask
    first_rows: tuple[PreviewRow, ...] = ()  # that are trained on


class HeldOutRow(Record):
    """A row to evaluate on, as a question."""

    prompt: str  # as the model reads it, special tokens included
    input_ids: tuple[int, ...]
    reference: str | None  # the row's own answer


class HeldOut(Record):
    """``held_out.json``, beside the Arrow files: the first rows to evaluate on, in their order."""

    rows: tuple[HeldOutRow, ...]


class Preview(Record):
    """The first rows, for a person to look at."""

    format: str
    format_reason: str
    chat_template: ChatTemplateChoice | None = None  # what renders conversations; None: no row is one
    rows: tuple[PreviewRow, ...]
