"""What the adapter is judged by, and what the rows held out, and the curve of training, say about it."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from job.records.base import Record
from job.records.plan import Plan
from job.records.train import GateFigures, TrainTask

Pattern = Literal["converging", "plateau", "oscillating", "spike", "overfitting", "diverging", "too_short"]


class EvaluateTask(Record):
    """What ``job.evaluate`` is asked to do."""

    train: TrainTask  # where model and rows are, and how the base is to be named
    plan: Plan  # that training went by
    adapter: Path  # the folder that is to be published


class CurveFinding(Record):
    """One thing that a curve of training shows."""

    pattern: Pattern = Field(
        description="converging; plateau, which gains no more, or never did; diverging, which loses; oscillating; "
        "spike; overfitting, where training gains and evaluation loses; too_short, where noise may hide it all."
    )
    evidence: str = Field(description="The figures that show it, in a sentence.")
    advice: str = Field(default="", description="The setting to change, if one is.")


class Score(Record):
    """One scorer's mean over all rows that were generated for, from 0 to 1."""

    scorer: str = Field(description="As JOB_EVAL_SCORERS names it.")
    rows: int = Field(default=0, description="Held-out rows with something to compare an answer with.")
    base: float = Field(description="Of the base model.")
    tuned: float = Field(description="Of the base model with the adapter.")
    f1: dict[str, float] | None = Field(
        default=None, description="F1 of each class with the adapter; null but for classification."
    )


class Answer(Record):
    """What both models make of one held-out prompt."""

    prompt: str = Field(description="As the model reads it, special tokens included.")
    reference: str | None = Field(description="The answer of the row; null where it has none.")
    base: str = Field(description="The base model's answer.")
    tuned: str = Field(description="The answer with the adapter.")
    scores: dict[str, tuple[float, float]] = Field(
        default={}, description="Scorer -> the score of the base model's answer and of the tuned one's."
    )


class Judgement(Record):
    """What ``job.evaluate`` found."""

    objection: str | None = None  # why the adapter is rejected, with figures; None: it is not
    fix: str = ""
    gate: GateFigures | None = None  # None: it came not so far as to have them
    scores: tuple[Score, ...] = ()  # of answers to held-out rows, where they were asked for
    answers: tuple[Answer, ...] = ()
