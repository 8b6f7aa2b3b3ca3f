"""Settings that are valid one by one, and cannot be meant together."""

from collections.abc import Iterator

from job.compatibility import OPTIMIZERS_OF
from job.optimizers import OPTIMIZERS
from job.schedules import schedule_problem
from job.settings import Settings


def contradictions(spec: Settings) -> Iterator[str]:
    """Every one in *spec*, as a sentence without its full stop that names the settings and the next thing to try."""
    yield from _of_inputs(spec)
    yield from _of_adapter(spec)
    yield from _of_optimization(spec)
    yield from _of_evaluation(spec)
    yield from _of_running(spec)


def _of_inputs(spec: Settings) -> Iterator[str]:
    if spec.dataset_weights and len(spec.dataset_weights) != len(spec.dataset_uri):
        yield (
            f"JOB_DATASET_WEIGHTS has {len(spec.dataset_weights)} numbers for the {len(spec.dataset_uri)} sources "
            "of JOB_DATASET_URI; give one for each"
        )


def _of_adapter(spec: Settings) -> Iterator[str]:
    if spec.adapter == "qlora" and spec.quantization not in ("auto", "nf4"):
        yield f"JOB_ADAPTER=qlora contradicts JOB_QUANTIZATION={spec.quantization}; use lora, or leave it unset"


def _of_evaluation(spec: Settings) -> Iterator[str]:
    if spec.eval_fraction and spec.eval_dataset_uri:
        yield "JOB_EVAL_FRACTION and JOB_EVAL_DATASET_URI are both set; keep one of them"

    if not _evaluates(spec):
        for name in ("early_stopping_patience", "eval_steps"):
            if getattr(spec, name):
                yield f"JOB_{name.upper()} is set without rows to evaluate on; set JOB_EVAL_FRACTION=0.05 too"
    if spec.early_stopping_threshold and not spec.early_stopping_patience:
        yield "JOB_EARLY_STOPPING_THRESHOLD is set without JOB_EARLY_STOPPING_PATIENCE; set it too"


def _evaluates(spec: Settings) -> bool:
    return bool(spec.eval_fraction or spec.eval_dataset_uri)


def _of_optimization(spec: Settings) -> Iterator[str]:
    if problem := schedule_problem(spec.lr_scheduler_type, spec.lr_scheduler_kwargs):
        yield f"JOB_LR_SCHEDULER_TYPE={spec.lr_scheduler_type} {problem}"
    if spec.lr_scheduler_type == "reduce_lr_on_plateau" and not _evaluates(spec):
        yield "JOB_LR_SCHEDULER_TYPE=reduce_lr_on_plateau goes by evaluations; set JOB_EVAL_FRACTION=0.05 too"


def _of_running(spec: Settings) -> Iterator[str]:
    if spec.max_cost and not spec.gpu_hour_price:
        yield "JOB_MAX_COST is set without a price; set JOB_GPU_HOUR_PRICE too"
    if spec.strategy == "single" and (spec.num_processes or 1) > 1:
        yield f"JOB_STRATEGY=single contradicts JOB_NUM_PROCESSES={spec.num_processes}; use ddp"
    if spec.cpu_offload is True and spec.strategy not in ("auto", "fsdp", "zero3"):
        yield f"JOB_CPU_OFFLOAD=true contradicts JOB_STRATEGY={spec.strategy}; use fsdp or zero3"
    if spec.optim not in ("auto", *OPTIMIZERS_OF.get(spec.strategy, OPTIMIZERS)):
        yield (
            f"JOB_STRATEGY={spec.strategy} cannot run JOB_OPTIM={spec.optim}, whose states it cannot share; use "
            f"{' or '.join(OPTIMIZERS_OF[spec.strategy])}"
        )
    if spec.quantization == "int8" and spec.strategy == "fsdp":
        yield (
            "JOB_STRATEGY=fsdp cannot share a base with JOB_QUANTIZATION=int8, whose scales are lost on the way; "
            "use JOB_QUANTIZATION=nf4, or JOB_STRATEGY=zero3"
        )
    if spec.quantization == "int8" and spec.strategy == "auto" and spec.cpu_offload is True:
        yield (
            "JOB_CPU_OFFLOAD=true is done by fsdp, which contradicts JOB_QUANTIZATION=int8; leave JOB_CPU_OFFLOAD "
            "unset, or use JOB_QUANTIZATION=none"
        )
    if spec.num_processes and spec.global_batch_size % spec.num_processes:
        yield (
            f"JOB_GLOBAL_BATCH_SIZE={spec.global_batch_size} cannot be shared by "
            f"JOB_NUM_PROCESSES={spec.num_processes}; make it a multiple"
        )
