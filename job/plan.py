"""How the job will run on the machine it found. Pure: no I/O, no clock, no torch.

The story: the host, the batch (`job.batch`), then the choice by memory and speed (`job.choice`), each with its reason.
"""

from dataclasses import replace
from typing import Any

from job.activations import formula_holds
from job.adapters import peft_fields
from job.batch import settle_batch
from job.candidates import Case, per_device_sizes
from job.choice import Choice, choose
from job.compatibility import quantizations, settled_optim
from job.errors import BadSpec, UnsuitableHost
from job.forecast import forecast, how_fast
from job.methods import METHODS
from job.parameters import Parameters, count_parameters, scoring
from job.reasons import why_checkpointing, why_memory, why_optim, why_quantization, why_strategy
from job.records import Decided, Facts, HardwareFacts, Plan, Precision
from job.remedy import nothing_fits
from job.spec import JobSpec

# A CPU trains a 100M-parameter model at a few hundred tokens a second: above that a run takes weeks.
CPU_PARAMETER_LIMIT = 100_000_000
# bfloat16 arithmetic came with compute capability 8.0 (Ampere, CUDA programming guide, table of features).
BF16_COMPUTE_CAPABILITY = (8, 0)


def make_plan(spec: JobSpec, facts: Facts, decided: Decided | None = None) -> Plan:
    """Decide how to run *spec* on *facts*, as far as an earlier attempt has not *decided* it.

    ``global_batch_size = per_device_train_batch_size × gradient_accumulation_steps × num_processes`` exactly, so the
    number of GPUs does not change the optimizer step.

    Raises:
        BadSpec: the batch does not divide, or nothing fits into the GPUs; the message names a change that would.
        UnsuitableHost: the model is too large for this machine's CPU and there is no GPU.
    """
    check_host(spec, facts.hardware, facts.model.parameters)
    reasons: dict[str, str] = {}
    case = _case(_as_decided(spec, decided), facts, reasons)
    if not uses_gpu(spec, facts.hardware):
        return _cpu_plan(case, decided, reasons)
    choice = choose(case)
    if choice is None:
        raise nothing_fits(case, lambda other, hardware: _case(other, facts.model_copy(update={"hardware": hardware})))
    return _gpu_plan(case, choice, decided, reasons)


def check_host(spec: JobSpec, hardware: HardwareFacts, parameters: int) -> None:
    """Refuse what can be refused before any row is read.

    Raises:
        UnsuitableHost: no GPU, and a model that would take a CPU weeks or a strategy that needs one.
        BadSpec: more processes than GPUs.
    """
    if not hardware.gpus and spec.strategy in ("fsdp", "zero2", "zero3"):
        raise UnsuitableHost(
            f"No GPU is visible and JOB_STRATEGY={spec.strategy} needs one.",
            "Start the container with --gpus all, or leave JOB_STRATEGY unset.",
        )
    if not hardware.gpus and parameters > CPU_PARAMETER_LIMIT and spec.strategy != "cpu":
        raise UnsuitableHost(
            f"No GPU is visible and JOB_MODEL={spec.model} has {parameters / 1e6:,.0f}M parameters.",
            "Start the container with --gpus all, or set JOB_STRATEGY=cpu to train on the CPU all the same.",
        )
    if uses_gpu(spec, hardware) and (spec.num_processes or 0) > len(hardware.gpus):
        raise BadSpec(
            f"JOB_NUM_PROCESSES={spec.num_processes} is more than the {len(hardware.gpus)} visible GPUs.",
            f"Set JOB_NUM_PROCESSES={len(hardware.gpus)} or leave it unset.",
        )


def uses_gpu(spec: JobSpec, hardware: HardwareFacts) -> bool:
    """Whether training will be on GPUs."""
    return bool(hardware.gpus) and spec.strategy != "cpu"


def _as_decided(spec: JobSpec, decided: Decided | None) -> JobSpec:
    """*spec* with what an earlier attempt has settled that changes the numbers."""
    return spec.model_copy(update=decided.model_dump(include={"quantization", "packing"})) if decided else spec


def _case(spec: JobSpec, facts: Facts, reasons: dict[str, str] | None = None) -> Case:
    reasons = {} if reasons is None else reasons
    num_processes = _num_processes(spec, facts.hardware)
    return Case(
        spec=spec,
        facts=facts,
        parameters=_parameters(spec, facts),
        num_processes=num_processes,
        batch=settle_batch(spec, facts, num_processes, reasons),
        precision=_precision(spec, facts.hardware, reasons),
    )


def _parameters(spec: JobSpec, facts: Facts) -> Parameters:
    """The names of tensors do not tell of experts with adapters, which are fused only in memory: the dry run does."""
    counted = count_parameters(facts.model, spec.adapter, peft_fields(spec))
    if spec.method == "reward":
        counted = scoring(counted, facts.model)
    if facts.dry_run and not facts.dry_run.failure and not formula_holds(spec, facts.model.config):
        return replace(counted, adapter=facts.dry_run.adapter_parameters)
    return counted


def _num_processes(spec: JobSpec, hardware: HardwareFacts) -> int:
    gpus = len(hardware.gpus) if uses_gpu(spec, hardware) else 1
    return 1 if spec.strategy == "single" else spec.num_processes or gpus


def _precision(spec: JobSpec, hardware: HardwareFacts, reasons: dict[str, str]) -> Precision:
    if not uses_gpu(spec, hardware):
        reasons["precision"] = "fp32: training on a CPU"
        return "fp32"
    oldest = min(hardware.gpus, key=lambda gpu: gpu.compute_capability)
    if oldest.compute_capability >= BF16_COMPUTE_CAPABILITY:
        reasons["precision"] = f"bf16: {oldest.name} has it"
        return "bf16"
    reasons["precision"] = f"fp16 with loss scaling: {oldest.name} has no bf16"
    return "fp16"


def _cpu_plan(case: Case, decided: Decided | None, reasons: dict[str, str]) -> Plan:
    """One process, or several over gloo. Memory is the host's and plentiful: nothing is quantized unasked."""
    spec = case.spec
    many = case.num_processes > 1 or spec.strategy == "ddp"
    quantization = quantizations(spec)[0]
    checkpointing = spec.gradient_checkpointing is True
    reasons["strategy"] = f"ddp over {case.num_processes} processes, no GPU" if many else "cpu: one process, no GPU"
    why = "as set" if quantization != "none" else "no GPU memory to save"
    reasons["quantization"] = f"{quantization}, as an earlier attempt decided" if decided else f"{quantization}: {why}"
    reasons["gradient_checkpointing"] = "as set" if checkpointing else "off: no GPU memory to save"
    optim = settled_optim(spec.optim, "cpu", quantization)
    reasons["optim"] = why_optim(spec.optim, optim)
    return Plan(
        strategy="ddp" if many else "cpu",
        use_gpu=False,
        quantization=quantization,
        optim=optim,
        adapter_dtype="fp32",
        gradient_checkpointing=checkpointing,
        **_batch(case, per_device_sizes(case)[-1], reasons),
        reasons=reasons,
    )


def _gpu_plan(case: Case, choice: Choice, decided: Decided | None, reasons: dict[str, str]) -> Plan:
    setup = choice.taken.setup
    reasons["strategy"] = why_strategy(case, choice)
    reasons["quantization"] = why_quantization(case, choice, decided)
    reasons["gradient_checkpointing"] = why_checkpointing(case, choice)
    reasons["optim"] = why_optim(case.spec.optim, setup.optim)
    reasons["memory"] = why_memory(case, choice.taken)
    plan = Plan(
        strategy=setup.strategy,
        use_gpu=True,
        quantization=setup.quantization,
        optim=setup.optim,
        adapter_dtype=setup.adapter_dtype,
        cpu_offload=setup.cpu_offload,
        gradient_checkpointing=setup.gradient_checkpointing,
        **_batch(case, setup.per_device, reasons),
        memory=choice.taken.memory,
        alternatives=choice.alternatives,
        reasons=reasons,
    )
    # How long answers take to draw depends on how long they become.
    why = None if case.spec.num_generations else how_fast(case.facts.hardware.gpus)
    foreseen = forecast(case.spec, plan, case.facts.dataset, choice.taken.tokens_per_s, why) if why else None
    return plan.model_copy(update={"forecast": foreseen})


def _batch(case: Case, per_device: int, reasons: dict[str, str]) -> dict[str, Any]:
    batch, accumulation = case.batch, case.batch.share // per_device
    what = "pack" if batch.packing else "answer" if case.spec.num_generations else "row"
    reasons["batch"] = (
        f"{per_device} {what}{'s' * (per_device > 1)} per process × {accumulation} accumulation × "
        f"{case.num_processes} process{'es' * (case.num_processes > 1)}"
    )
    return {
        "num_processes": case.num_processes,
        "precision": case.precision,
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": accumulation,
        "global_batch_size": batch.rows,
        "num_generations": case.spec.num_generations or 1,
        "least_per_device": METHODS[case.spec.method].least,
        "whole_steps": METHODS[case.spec.method].compares,
        "packing": batch.packing,
        "max_length": batch.max_length,
    }
