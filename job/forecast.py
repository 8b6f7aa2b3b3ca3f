"""How long a run will take and what it will cost."""

import math
from collections.abc import Sequence

from job.facts.gpus import speed_of
from job.records import DatasetFacts, Forecast, Gpu, Plan
from job.spec import JobSpec
from job.speed import EFFICIENCY

# Packs are this full (docs/benchmarks.md, preparation).
PACK_FILL = 0.99
SECONDS_PER_HOUR = 3600


def forecast(spec: JobSpec, plan: Plan, dataset: DatasetFacts, tokens_per_s: float, why: str) -> Forecast:
    """The run of *plan* over *dataset* at *tokens_per_s* over all GPUs, padding left out. The cost is that of training
    alone: the GPUs are paid for from the container's start."""
    rows = _rows_per_step(plan, dataset)
    steps = _steps(spec, dataset, rows)
    tokens = round(steps * rows * dataset.mean_tokens) if steps else None
    hours = tokens / tokens_per_s / SECONDS_PER_HOUR if tokens else None
    return Forecast(
        tokens_per_s=round(tokens_per_s, 1),
        why=why,
        steps=steps,
        tokens=tokens,
        hours=round(hours, 4) if hours is not None else None,
        cost=_cost(spec, hours, plan.num_processes),
    )


def how_fast(gpus: Sequence[Gpu]) -> str | None:
    """In words, what a forecast for *gpus* rests on; None when the speed of one of them is not known."""
    speeds = [(speed.tflops, gpu.name) for gpu in gpus if (speed := speed_of(gpu))]
    if len(speeds) < len(gpus):
        return None
    tflops, name = min(speeds)
    return f"at {EFFICIENCY:.0%} of the {tflops:,.0f} TFLOPS of {name}, stated and not measured"


def _cost(spec: JobSpec, hours: float | None, num_gpus: int) -> float | None:
    if hours is None or spec.gpu_hour_price is None:
        return None
    return round(hours * num_gpus * spec.gpu_hour_price, 2)


def _rows_per_step(plan: Plan, dataset: DatasetFacts) -> float:
    rows = plan.global_batch_size
    return rows * plan.max_length * PACK_FILL / dataset.mean_tokens if plan.packing else rows


def _steps(spec: JobSpec, dataset: DatasetFacts, rows_per_step: float) -> int | None:
    if spec.max_steps:
        return spec.max_steps
    if dataset.epoch_rows is None:
        return None
    return max(1, math.ceil(math.ceil(dataset.epoch_rows / rows_per_step) * spec.num_train_epochs))
