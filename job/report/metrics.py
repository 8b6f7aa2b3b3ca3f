"""``metrics.json``: what was run, on what, and how it went. `docs/metrics.md` is generated from these fields."""

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from job import __version__
from job.records import (
    AdapterProof,
    AddedTokens,
    CurveFinding,
    HardwareFacts,
    LogEntry,
    ModelFacts,
    Plan,
    Prepared,
    Record,
    Score,
    TrainResult,
)
from job.report.curve import read_curve
from job.report.made import Made
from job.spec import JobSpec

SCHEMA_VERSION = 1


class BaseModelMetrics(Record):
    """The base model."""

    uri: str = Field(description="As given in JOB_MODEL.")
    revision: str | None = Field(description="Commit on the Hub; null elsewhere.")
    model_type: str = Field(description="transformers' name of the architecture.")
    parameters: int = Field(description="Parameters, from the safetensors headers.")
    merged_adapter: str | None = Field(
        default=None, description="The adapter that must be merged into it before this one is put on; null: none."
    )


class TokenizerMetrics(Record):
    """What the adapter's tokenizer has that the base model's has not."""

    chat_template: str | None = Field(
        description="What rendered conversations, with the reason; null where no row is one."
    )
    eos_token: str | None = Field(description="The end token that its template brought; null: the base model's own.")
    added_tokens: AddedTokens = Field(description="Tokens that are new, with their ids; resized: the base needs rows.")


class DataMetrics(Record):
    """The rows after truncation to max_length."""

    uri: str = Field(description="As given in JOB_DATASET_URI.")
    revision: str | None = Field(
        description="Commit on the Hub; null elsewhere. Of several sources, one each (or nothing), separated by commas."
    )
    format: str = Field(description="messages, prompt-completion, alpaca or text; each one found in several sources.")
    rows: int = Field(description="Training rows in one epoch: a row that is weighted 2 counts twice.")
    sequences: int = Field(description="Training sequences: rows, or packs of rows.")
    tokens: int = Field(description="Tokens in one epoch.")
    trained_tokens: int = Field(description="Tokens in one epoch that carry loss.")
    truncated_rows: int = Field(description="Rows cut at max_length.")
    dropped_rows: int = Field(description="Rows left out because nothing to learn remained after the cut.")
    eval_rows: int = Field(description="Evaluation rows; 0 without evaluation.")


class TrainMetrics(Record):
    """Training."""

    steps: int = Field(description="Optimizer steps.")
    published_step: int = Field(description="The step whose adapter this is: the last, or that of the best evaluation.")
    stopped_early: bool = Field(description="Whether training ended as evaluations got no better.")
    epochs: float = Field(description="Passes over the data.")
    loss: float = Field(description="Mean training loss over the run.")
    runtime_s: float = Field(description="Seconds of training, evaluations included.")
    tokens: int = Field(description="Tokens seen, padding left out.")
    steps_per_s: float | None = Field(
        description="Steps per second, without the first step and without evaluations; null when there was one step."
    )
    tokens_per_s: float | None = Field(description="steps_per_s times the mean tokens of a step, over all processes.")
    peak_gpu_memory_gib: float | None = Field(description="Peak GPU memory of rank 0 in GiB; null on a CPU.")
    history: tuple[LogEntry, ...] = Field(description="loss, grad_norm, learning_rate, … at each logging step.")


class EvalMetrics(Record):
    """Evaluation. A loss is the mean over batches of the mean token loss, as the Trainer computes it."""

    loss_before: float = Field(description="Loss of the base model, before the first step.")
    loss: float | None = Field(description="Loss of the adapter that this is; null where it stopped at no evaluation.")
    perplexity: float | None = Field(description="exp(loss) of sft, whose loss is that of tokens; else null.")
    history: tuple[LogEntry, ...] = Field(description="eval_loss and companions at each evaluation.")
    scores: tuple[Score, ...] = Field(default=(), description="Of answers to JOB_EVAL_GENERATE held-out rows.")


class AttemptMetrics(Record):
    """All attempts at the run together, as far as is known of those that died without a word."""

    count: int = Field(description="Attempts, this one included.")
    elapsed_s: float = Field(description="Seconds of each attempt from start to end, of this one to the report.")
    gpu_hours: float = Field(description="The same in hours, times the GPUs of each attempt's machine.")
    cost: float | None = Field(description="gpu_hours times JOB_GPU_HOUR_PRICE; null without it.")
    resumed_at_step: int = Field(description="Step from which this attempt went on; 0 if it began the run.")


class Metrics(Record):
    """The file."""

    schema_version: int = Field(description="1. It grows when a field changes its meaning or goes away.")
    status: Literal["finished", "partial", "rejected"] = Field(
        description="`partial`: the time was up before the end; `rejected`: a check of the adapter failed."
    )
    objection: str | None = Field(default=None, description="Why the adapter is rejected; null where it is not.")
    graft_version: str = Field(description="Version of this job.")
    method: str = Field(description="JOB_METHOD.")
    adapter: str = Field(description="JOB_ADAPTER.")
    base_model: BaseModelMetrics = Field(description="The base model.")
    tokenizer: TokenizerMetrics = Field(description="What the adapter's tokenizer has that the base model's has not.")
    data: DataMetrics = Field(description="The data.")
    train: TrainMetrics = Field(description="Training.")
    eval: EvalMetrics | None = Field(description="Evaluation; null without evaluation rows.")
    curve: tuple[CurveFinding, ...] = Field(description="What the curve of training shows, the main finding first.")
    proof: AdapterProof = Field(description="Trainable parameters, adapter tensors, and how many training changed.")
    plan: Plan = Field(description="How it ran, with the reason of each choice.")
    hardware: HardwareFacts = Field(description="What it ran on.")
    settings: dict[str, object] = Field(description="The whole spec.")
    attempts: AttemptMetrics = Field(description="All attempts at the run together.")
    phases_s: dict[str, float] = Field(description="Wall-clock seconds of each phase of this attempt.")
    versions: dict[str, str] = Field(description="Versions of the libraries that trained.")


def make_metrics(made: Made) -> Metrics:
    """Everything about a run that has learned something.

    Raises:
        ValueError: it has not.
    """
    spec, result = made.spec, made.result
    if result.adapter is None:
        raise ValueError("a run that has learned nothing has no metrics")
    return Metrics(
        schema_version=SCHEMA_VERSION,
        status=made.status,
        objection=made.objection,
        graft_version=__version__,
        method=spec.method,
        adapter=spec.adapter,
        base_model=_base_model(spec, made.facts.model, result),
        tokenizer=_tokenizer(made.prepared, result),
        data=_data(spec, made.prepared, made.dataset_revisions),
        train=_train(result),
        eval=_eval(made),
        curve=read_curve(spec.method, result.history, result.eval_history),
        proof=result.adapter,
        plan=made.plan,
        hardware=made.facts.hardware,
        settings=spec.model_dump(mode="json"),
        attempts=_attempts(made),
        phases_s={name: round(seconds, 2) for name, seconds in made.phases_s.items()},
        versions=result.versions,
    )


def _base_model(spec: JobSpec, model: ModelFacts, result: TrainResult) -> BaseModelMetrics:
    return BaseModelMetrics(
        uri=spec.model,
        revision=model.revision,
        model_type=model.model_type,
        parameters=model.parameters,
        merged_adapter=result.merged_adapter,
    )


def _attempts(made: Made) -> AttemptMetrics:
    gpu_hours = made.attempts.gpu_s / 3600
    price = made.spec.gpu_hour_price
    return AttemptMetrics(
        count=made.attempts.count,
        elapsed_s=round(made.attempts.elapsed_s, 1),
        gpu_hours=round(gpu_hours, 4),
        cost=round(gpu_hours * price, 4) if price else None,
        resumed_at_step=made.result.resumed_at_step,
    )


def _tokenizer(prepared: Prepared, result: TrainResult) -> TokenizerMetrics:
    template = prepared.chat_template
    return TokenizerMetrics(
        chat_template=str(template) if template else None,
        eos_token=template.eos_token if template else None,
        added_tokens=result.added_tokens,
    )


def _data(spec: JobSpec, prepared: Prepared, revisions: Sequence[str | None]) -> DataMetrics:
    train = prepared.train
    return DataMetrics(
        uri=",".join(spec.dataset_uri),
        revision=",".join(revision or "" for revision in revisions) if any(revisions) else None,
        format=prepared.format,
        rows=train.rows,
        sequences=train.sequences,
        tokens=train.tokens,
        trained_tokens=train.trained_tokens,
        truncated_rows=train.truncated_rows,
        dropped_rows=train.dropped_rows,
        eval_rows=prepared.eval.rows if prepared.eval else 0,
    )


def _train(result: TrainResult) -> TrainMetrics:
    steps_per_s = result.timed_steps / result.after_first_step_s if result.timed_steps else None
    return TrainMetrics(
        steps=result.steps,
        published_step=result.published_step or result.steps,
        stopped_early=result.stopped_early,
        epochs=result.epoch,
        loss=result.train_loss,
        runtime_s=result.train_runtime_s,
        tokens=result.tokens,
        steps_per_s=steps_per_s,
        tokens_per_s=steps_per_s * result.tokens / result.steps if steps_per_s else None,
        peak_gpu_memory_gib=result.peak_gpu_memory_gib,
        history=result.history,
    )


def _eval(made: Made) -> EvalMetrics | None:
    result = made.result
    if not result.eval_history:
        return None
    first, step = result.eval_history[0], result.published_step or result.steps
    loss = next((entry.values["eval_loss"] for entry in reversed(result.eval_history) if entry.step == step), None)
    return EvalMetrics(
        loss_before=first.values["eval_loss"],
        loss=loss,
        perplexity=math.exp(loss) if loss is not None and made.spec.method == "sft" else None,
        history=result.eval_history,
        scores=made.scores,
    )
