"""What a run consists of, from what was asked for to what came out: all that its reports are written from."""

from dataclasses import dataclass
from typing import Literal

from job.records import Answer, Facts, Plan, Prepared, PreviewRow, SampleAnswer, Score, TrainResult
from job.spec import JobSpec


@dataclass(frozen=True)
class AllAttempts:
    """Together, the present one included."""

    count: int
    elapsed_s: float  # as far as is known of those that died
    gpu_s: float  # the same times the GPUs of the machine


@dataclass(frozen=True)
class Made:
    """A run that has trained."""

    spec: JobSpec
    dataset_revisions: tuple[str | None, ...]
    facts: Facts
    plan: Plan
    prepared: Prepared
    result: TrainResult
    phases_s: dict[str, float]  # wall-clock seconds of the present attempt
    attempts: AllAttempts
    # What there is besides figures: of all the report shows as much as there is.
    rows: tuple[PreviewRow, ...] = ()  # the first rows that were trained on
    scores: tuple[Score, ...] = ()
    answers: tuple[Answer, ...] = ()
    samples: tuple[SampleAnswer, ...] = ()  # by step
    objection: str | None = None  # why the adapter is rejected
    set_apart: Literal["partial", "rejected"] | None = None  # where it is published; None: as the result

    @property
    def status(self) -> Literal["finished", "partial", "rejected"]:
        return self.set_apart or ("finished" if self.result.status == "finished" else "partial")
