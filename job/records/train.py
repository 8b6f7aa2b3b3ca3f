"""What the worker is asked for and what it answers."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from job.records.base import Record
from job.records.prepare import ChatTemplateChoice


class StartingAdapter(Record):
    """An adapter of an earlier run, on this machine."""

    path: Path
    how: Literal["continue", "merge"]
    location: str  # what loads it elsewhere: a repository id, or the folder's URI
    identity: str  # SHA-256 over its files


class RewardModel(Record):
    """The folders of a model that scores answers: a base with an adapter, or a model that does so by itself."""

    base: Path
    adapter: Path | None = None


class TrainTask(Record):
    """Where the worker finds what it needs, and what it must write into the adapter."""

    model_path: Path
    data_path: Path
    base_model_name: str  # the given URI or repository id, never a local cache path
    base_model_revision: str | None
    has_eval: bool
    chat_template: ChatTemplateChoice | None = None  # None: the tokenizer stays as it is
    start: StartingAdapter | None = None  # None: from the base alone
    reward_model: RewardModel | None = None  # None: no model scores answers
    resume_from: Path | None = None  # a complete checkpoint; None: from the first step


class LogEntry(Record):
    """One logging step of training or evaluation, by the Trainer's own names."""

    step: int
    values: dict[str, float]


class GateFigures(Record):
    """What a fresh process found about the adapter's file, on the base as it was trained on."""

    tensors: int = Field(description="Of the file, those that begin at nothing, or are trained whole.")
    learned: int = Field(description="How many of these are not what they began as.")
    moved: float = Field(
        description="The most that the adapter moves a logit of the base model, over a few trained rows."
    )
    apart: float = Field(description="The most that a logit differs from the trained model's in memory.")
    tolerance: float = Field(description="How much of that may be rounding.")
    effect_apart: float | None = Field(
        default=None,
        description="How far what the adapter adds to the logits is from what it added in training, root mean square, "
        "as a share of the latter. null: the trained model had no untouched base to compare with (PiSSA, OLoRA).",
    )
    effect_tolerance: float | None = Field(
        default=None,
        description="How much of that may be rounding, by what the base model's own logits differ between both.",
    )

    def __str__(self) -> str:
        effect = "" if self.effect_apart is None else f" ({self.effect_apart:.1%} of what it does to all)"
        return (
            f"{self.learned} of {self.tensors} tensors learned; it moves logits by up to {self.moved:.2g}, and loaded "
            f"anew it is within {self.apart:.1g} of training's{effect}"
        )


class AdapterProof(Record):
    """Evidence that the adapter was trainable and has changed."""

    trainable_parameters: int
    tensors: int
    changed_tensors: int
    unchanged: tuple[str, ...] = ()
    gate: GateFigures | None = None  # None: not judged, as of a partial result


class AddedTokens(Record):
    """Tokens that the base model's vocabulary did not have, and whose embeddings the adapter holds."""

    tokens: tuple[str, ...] = Field(default=(), description="Their texts.")
    ids: tuple[int, ...] = Field(default=(), description="Their ids, in the same order.")
    resized_to: int | None = Field(
        default=None, description="Rows that the base model's embedding must have first; null: it has enough."
    )


class SampleAnswer(Record):
    """An answer during training."""

    step: int = Field(description="The optimizer step after which it was generated.")
    prompt: str = Field(description="As the model reads it, special tokens included.")
    answer: str = Field(description="What the model answered.")


class TrainResult(Record):
    """What rank 0 leaves behind: a finished training, or one that the stop file ended."""

    status: Literal["finished", "stopped"]
    steps: int
    total_steps: int
    published_step: int = 0  # whose adapter it is: the last step's, or the best evaluation's; 0: not known
    stopped_early: bool = False  # as evaluations got no better
    resumed_at_step: int = 0  # 0: this process trained from the beginning
    epoch: float
    # Here and below, all attempts together, without the steps that were lost with one and made again.
    train_runtime_s: float
    timed_steps: int  # all but the first, which pays for warm-up, and the first after each resume
    after_first_step_s: float  # what these took, evaluations left out
    tokens: int
    train_loss: float
    history: tuple[LogEntry, ...]
    eval_history: tuple[LogEntry, ...]
    adapter: AdapterProof | None  # None: stopped before it had learned anything
    added_tokens: AddedTokens = AddedTokens()
    merged_adapter: str | None = None  # what was merged into the base first
    peak_gpu_memory_gib: float | None
    versions: dict[str, str]
    samples: tuple[SampleAnswer, ...] = ()


class WorkerError(Record):
    """Why a rank died. The earliest over all ranks is the root cause."""

    code: int
    cause: str
    fix: str
    rank: int
    time: float  # seconds since the epoch
    traceback: str
    secondary: bool = False  # it failed as another rank had: never the root cause
