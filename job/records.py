"""What the processes of one job tell each other: the JSON files of a `RunDir`, each a frozen record.

`Facts` and `Plan` are written by the supervisor, `PrepareTask` too; `Prepared` comes back from ``job.prepare``,
`PackingProbe` from ``job.probe``, `TrainResult` or `WorkerError` from ``job.train``.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["bf16", "fp16", "fp32"]
Strategy = Literal["single", "ddp", "cpu"]
Format = Literal[
    "messages", "sharegpt", "prompt-completion", "alpaca", "text", "preference", "unpaired-preference", "prompt-only"
]
Allowance = Literal["truncation", "nothing_to_learn", "untrained_end", "trained_prompt"]


class Record(BaseModel):
    """Base of all records: frozen, and an unknown field is an error rather than silently dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Gpu(Record):
    name: str
    memory_gib: float
    compute_capability: tuple[int, int]


class HardwareFacts(Record):
    """The machine as NVML and the operating system see it. No GPU is a fact, not an error."""

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    cpus: int = 1
    memory_gib: float = 0.0


class ModelFacts(Record):
    """The base model as its ``config.json`` and safetensors headers describe it; no weight was read."""

    uri: str
    revision: str | None
    model_type: str
    parameters: int
    weights_bytes: int
    dtypes: dict[str, int]  # safetensors dtype -> number of parameters
    shapes: dict[str, tuple[int, ...]]  # tensor name -> shape
    layers: int | None
    hidden_size: int | None
    vocab_size: int | None
    max_length: int | None  # max_position_embeddings
    identity: str  # changes when any file of the model changes


class DatasetFacts(Record):
    """Row and token counts, from all rows or, *sampled*, from the first ones."""

    rows: int
    sampled: bool
    mean_tokens: float
    max_tokens: int
    trained_share: float  # share of tokens that carry loss, 0..1
    format: str
    format_reason: str


class PackingProbe(Record):
    """Whether a packed neighbour can be seen by a row of this architecture."""

    isolated: bool
    reason: str


class Facts(Record):
    hardware: HardwareFacts
    model: ModelFacts
    dataset: DatasetFacts
    packing: PackingProbe | None = None  # None: not probed, because packing was ruled out before


class Plan(Record):
    """How the job will run. *reasons* says why, one sentence a choice."""

    strategy: Strategy
    num_processes: int
    precision: Precision
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    global_batch_size: int  # sequences (packs, when packing) per optimizer step
    packing: bool
    gradient_checkpointing: bool
    max_length: int
    use_gpu: bool
    reasons: dict[str, str]


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


# The events of a preparation that takes long, in its folder.
PROGRESS = "progress.jsonl"


class ChatTemplateChoice(Record):
    """The chat template that renders conversations, and what the tokenizer must have for it."""

    name: str
    reason: str = ""
    source: str | None = None  # Jinja; None: the tokenizer's own stays
    added_tokens: dict[str, bool] = {}  # tokens to add where they are lacking -> whether they are special
    eos_token: str | None = None  # what ends a turn, where the tokenizer has another end token of its own

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name


class PrepareTask(Record):
    """What ``job.prepare`` is asked to do."""

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
    row_limit: int | None = None  # None: every row
    processes: int = 1  # that share the work


class SplitStats(Record):
    """One prepared split. Counts are after truncation to max_length."""

    rows: int
    sequences: int  # what the trainer iterates over: rows, or packs
    tokens: int
    trained_tokens: int
    max_tokens: int
    truncated_rows: int
    truncated_tokens: int  # cut off
    dropped_rows: int  # nothing left to learn after truncation
    dropped_tokens: int  # in dropped rows, after truncation


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
    train: SplitStats
    eval: SplitStats | None
    findings: Findings
    chat_template: ChatTemplateChoice | None = None  # what renders conversations; None: no row is one


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


class Preview(Record):
    """The first rows, for a person to look at."""

    format: str
    format_reason: str
    chat_template: ChatTemplateChoice | None = None  # what renders conversations; None: no row is one
    rows: tuple[PreviewRow, ...]


class TrainTask(Record):
    """Where the worker finds what it needs, and what it must write into the adapter."""

    model_path: Path
    data_path: Path
    base_model_name: str  # the given URI or repository id, never a local cache path
    base_model_revision: str | None
    has_eval: bool
    chat_template: ChatTemplateChoice | None = None  # None: the tokenizer stays as it is


class LogEntry(Record):
    """One logging step of training or evaluation, by the Trainer's own names."""

    step: int
    values: dict[str, float]


class AdapterProof(Record):
    """Evidence that the adapter was trainable and has changed."""

    trainable_parameters: int
    tensors: int
    changed_tensors: int
    unchanged: tuple[str, ...] = ()


class AddedTokens(Record):
    """Tokens that the base model's vocabulary did not have, and whose embeddings the adapter holds."""

    tokens: tuple[str, ...] = Field(default=(), description="Their texts.")
    ids: tuple[int, ...] = Field(default=(), description="Their ids, in the same order.")
    resized_to: int | None = Field(
        default=None, description="Rows that the base model's embedding must have first; null: it has enough."
    )


class TrainResult(Record):
    """What rank 0 leaves behind: a finished training, or one that the stop file ended."""

    status: Literal["finished", "stopped"]
    steps: int
    total_steps: int
    epoch: float
    train_runtime_s: float
    # From the end of the first step, which pays for warm-up, to the end of the last, evaluations left out.
    after_first_step_s: float
    tokens: int
    train_loss: float
    history: tuple[LogEntry, ...]
    eval_history: tuple[LogEntry, ...]
    adapter: AdapterProof | None  # None: stopped before the end
    added_tokens: AddedTokens = AddedTokens()
    peak_gpu_memory_gib: float | None
    versions: dict[str, str]


class WorkerError(Record):
    """Why a rank died. The earliest over all ranks is the root cause."""

    code: int
    cause: str
    fix: str
    rank: int
    time: float  # seconds since the epoch
    traceback: str


class Outcome(Record):
    """How a run ended: the last line of stdout, ``/dev/termination-log`` and ``attempts/NNNN/outcome.json``."""

    code: int
    # `class` is Python's word; the JSON name is `class`.
    error_class: str
    phase: str
    cause: str
    fix: str
    last_durable_step: int | None
    attempt: int | None

    def to_json(self) -> dict[str, Any]:
        fields = self.model_dump(mode="json")
        return {"code": fields.pop("code"), "class": fields.pop("error_class"), **fields}
