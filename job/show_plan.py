"""The verb ``plan``: how the job would run, on the GPUs that are here or on any that can be named."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

from job.batch import effective_max_length
from job.console import Console, forecast_lines
from job.inspection import Inputs, find_inputs
from job.plan import make_plan
from job.preparation import Workshop, dataset_facts, make_task, open_workshop, prepare, prepare_sample
from job.probing import gather
from job.processes import StopRequest, Task
from job.records import DatasetFacts, Facts, Gpu, MemoryEstimate, Plan
from job.spec import JobSpec

# Rows that are prepared in seconds are prepared, so that steps and hours are exact. Of more a sample is enough.
FEW_BYTES = 32 * 2**20


def run_plan(
    spec: JobSpec,
    env: Mapping[str, str],
    console: Console,
    stop: StopRequest,
    gpus: tuple[Gpu, ...] | None,
    stream: TextIO,
    *,
    as_json: bool,
) -> str:
    """Show on *stream* the plan for *gpus*, or for the GPUs that are here; returns it in one sentence.

    Raises:
        JobError: an input cannot be reached, or there is no plan.
    """
    with contextlib.suppress(OSError):  # without it nothing is kept for the next time
        spec.work_dir.mkdir(parents=True, exist_ok=True)
    inputs = find_inputs(spec, env, stop, needs_host=False)
    if gpus is not None:
        # What else the other machine has is not known.
        inputs = replace(inputs, hardware=inputs.hardware.model_copy(update={"gpus": gpus, "memory_gib": 0.0}))
    with TemporaryDirectory() as scratch:
        shop = open_workshop(spec, env, Path(scratch) / "plan.log", stop, console.event)
        folder = Task(lambda: inputs.model.localize(shop.cache / "models", weights=False)).result(stop)
        facts = gather(spec, inputs, folder, lambda: _rows(spec, inputs, shop), shop)
    plan = make_plan(spec, facts)
    stream.write(plan.model_dump_json() + "\n" if as_json else to_text(spec, facts, plan))
    where = (
        f"by {plan.strategy} on {plan.num_processes} × {facts.hardware.gpus[0].name}" if plan.use_gpu else "on the CPU"
    )
    return f"{spec.model} would be trained {where}."


def _rows(spec: JobSpec, inputs: Inputs, shop: Workshop) -> DatasetFacts:
    """What is known of the rows: all of few, the first of many, and of none that each is as long as it may be."""
    if not inputs.train:
        length = effective_max_length(spec, inputs.model.facts)
        return DatasetFacts(
            rows=0, epoch_rows=None, sampled=True, mean_tokens=length, max_tokens=length, lengths=(), trained_share=1,
            format="", format_reason="no JOB_DATASET_URI",
        )  # fmt: skip
    task = Task(lambda: make_task(spec, inputs, shop)).result(shop.stop)
    if sum(file.size for source in inputs.train for file in source.files) > FEW_BYTES:
        return prepare_sample(task, shop)
    return dataset_facts(prepare(task, shop)[1], sampled=False)


def to_text(spec: JobSpec, facts: Facts, plan: Plan) -> str:
    """*plan* for a person."""
    given = {"model": f"{spec.model}: {facts.model.parameters / 1e6:,.1f}M parameters", "rows": _given(facts.dataset)}
    lines = [f"{name.replace('_', ' '):<24} {reason}" for name, reason in (given | plan.reasons).items()]
    if plan.memory:
        lines += ["", *_memory(plan.memory)]
    if plan.forecast:
        lines += ["", *forecast_lines(spec, plan.forecast, plan.num_processes)]
    if plan.alternatives:
        lines += ["", *_alternatives(plan)]
    return "\n".join(lines) + "\n"


def _given(rows: DatasetFacts) -> str:
    if not rows.rows:
        return f"none: JOB_DATASET_URI is not set, so each is taken to have {rows.max_tokens} tokens"
    about = "about " if rows.sampled else ""
    count = f"{about}{rows.epoch_rows:,}" if rows.epoch_rows else "many"
    return f"{count} of {rows.mean_tokens:.0f} tokens on average"


def _memory(memory: MemoryEstimate) -> Iterable[str]:
    yield f"{'memory of one GPU':<24} {'GiB':>7}"
    for item in memory.items:
        yield f"  {item.name:<22} {item.gib:7.2f}  {item.why}"
    yield f"  {'all':<22} {memory.total_gib:7.2f}  of {memory.limit_gib:.2f}"


def _alternatives(plan: Plan) -> Sequence[str]:
    head = ("", "strategy", "base", "offload", "checkpointing", "batch", "GiB", "tokens/s", "")
    taken = (
        "taken", plan.strategy, plan.quantization, _yes(plan.cpu_offload), _yes(plan.gradient_checkpointing),
        str(plan.per_device_train_batch_size), f"{plan.memory.total_gib:.1f}" if plan.memory else "",
        f"{plan.forecast.tokens_per_s:,.0f}" if plan.forecast else "", "",
    )  # fmt: skip
    others = [
        ("", other.strategy, other.quantization, _yes(other.cpu_offload), _yes(other.gradient_checkpointing),
         str(other.per_device_train_batch_size), f"{other.memory_gib:.1f}", f"{other.tokens_per_s:,.0f}", other.verdict)
        for other in plan.alternatives
    ]  # fmt: skip
    rows = [head, taken, *others]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head) - 1)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    ]


def _yes(value: bool) -> str:
    return "yes" if value else "no"
