"""How the job will run on the machine it found. Pure: no I/O, no clock, no torch.

First version: one process on one GPU or none, DDP on several. FSDP, DeepSpeed and the memory arithmetic that chooses
between them and sizes the per-device batch belong in `_strategy` and `_per_device`.
"""

import math

from job.errors import BadSpec, UnsuitableHost
from job.records import Facts, HardwareFacts, ModelFacts, Plan, Precision, Strategy
from job.spec import JobSpec

# A CPU trains a 100M-parameter model at a few hundred tokens a second: above that a run takes weeks.
CPU_PARAMETER_LIMIT = 100_000_000
# Larger micro-batches gain little throughput on one GPU and cost activation memory linearly.
MAX_PER_DEVICE = 8
# bfloat16 arithmetic came with compute capability 8.0 (Ampere, CUDA programming guide, table of features).
BF16_COMPUTE_CAPABILITY = (8, 0)
# Packs hold whole multiples of max_length tokens; further than this from the tokens asked for, packing stays off.
PACKING_TOLERANCE = 1 / 3


def make_plan(spec: JobSpec, facts: Facts) -> Plan:
    """Decide how to run *spec* on *facts*.

    ``global_batch_size = per_device_train_batch_size × gradient_accumulation_steps × num_processes`` exactly, so the
    number of GPUs does not change the optimizer step.

    Raises:
        BadSpec: the batch does not divide; the message names a setting that would.
        UnsuitableHost: the model is too large for this machine's CPU and there is no GPU.
    """
    reasons: dict[str, str] = {}
    check_host(spec, facts.hardware, facts.model.parameters)
    max_length = _max_length(spec, facts, reasons)
    strategy, num_processes = _strategy(spec, facts.hardware, reasons)
    use_gpu = bool(facts.hardware.gpus) and strategy != "cpu"
    packing, global_batch = _packing(spec, facts, max_length, num_processes, reasons)
    per_device = _per_device(spec, global_batch, num_processes, packing, reasons)
    return Plan(
        strategy=strategy,
        num_processes=num_processes,
        precision=_precision(facts.hardware, use_gpu, reasons),
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=global_batch // (per_device * num_processes),
        global_batch_size=global_batch,
        packing=packing,
        gradient_checkpointing=_gradient_checkpointing(spec, use_gpu, reasons),
        max_length=max_length,
        use_gpu=use_gpu,
        reasons=reasons,
    )


def check_host(spec: JobSpec, hardware: HardwareFacts, parameters: int) -> None:
    """Refuse what can be refused before any row is read.

    Raises:
        UnsuitableHost: no GPU and a model that would take a CPU weeks.
        BadSpec: more processes than GPUs.
    """
    if not hardware.gpus and parameters > CPU_PARAMETER_LIMIT and spec.strategy != "cpu":
        raise UnsuitableHost(
            f"No GPU is visible and JOB_MODEL={spec.model} has {parameters / 1e6:,.0f}M parameters.",
            "Start the container with --gpus all, or set JOB_STRATEGY=cpu to train on the CPU all the same.",
        )
    if hardware.gpus and spec.strategy != "cpu" and (spec.num_processes or 0) > len(hardware.gpus):
        raise BadSpec(
            f"JOB_NUM_PROCESSES={spec.num_processes} is more than the {len(hardware.gpus)} visible GPUs.",
            f"Set JOB_NUM_PROCESSES={len(hardware.gpus)} or leave it unset.",
        )


def effective_max_length(spec: JobSpec, model: ModelFacts) -> int:
    """Tokens of the longest row that is trained on: the setting, within the model's own limit."""
    return min(spec.max_length, model.max_length or spec.max_length)


def _max_length(spec: JobSpec, facts: Facts, reasons: dict[str, str]) -> int:
    length = effective_max_length(spec, facts.model)
    why = "as set" if length == spec.max_length else f"the model's own limit is below JOB_MAX_LENGTH={spec.max_length}"
    reasons["max_length"] = f"{length} tokens: {why}"
    return length


def _strategy(spec: JobSpec, hardware: HardwareFacts, reasons: dict[str, str]) -> tuple[Strategy, int]:
    gpus = 0 if spec.strategy == "cpu" else len(hardware.gpus)
    num_processes = 1 if spec.strategy == "single" else spec.num_processes or max(gpus, 1)
    where = f"{gpus} × {hardware.gpus[0].name}" if gpus else "no GPU"
    if num_processes > 1:
        reasons["strategy"] = f"ddp over {num_processes} processes on {where}: only adapter gradients travel"
        return "ddp", num_processes
    if spec.strategy == "ddp":
        reasons["strategy"] = f"ddp with one process on {where}, as set"
        return "ddp", 1
    reasons["strategy"] = f"{'single' if gpus else 'cpu'}: one process on {where}"
    return ("single" if gpus else "cpu"), 1


def _packing(
    spec: JobSpec, facts: Facts, max_length: int, num_processes: int, reasons: dict[str, str]
) -> tuple[bool, int]:
    """Whether to pack, and the global batch in sequences or in packs of the same number of tokens."""
    rows, mean = spec.global_batch_size, facts.dataset.mean_tokens
    wanted = rows * mean / max_length
    packs = max(1, round(wanted))
    off = _packing_objection(spec, facts, max_length, packs, num_processes)
    if off is None:
        reasons["packing"] = (
            f"on: {packs} packs of {max_length} tokens hold about {rows} rows of {mean:.0f} tokens on average"
        )
        return True, packs
    reasons["packing"] = f"off: {off}"
    return False, rows


def _packing_objection(spec: JobSpec, facts: Facts, max_length: int, packs: int, num_processes: int) -> str | None:
    """Why not to pack, or None. The number of packs never depends on the number of GPUs, only whether to pack does.

    Raises:
        BadSpec: packing was asked for and cannot be had.
    """
    mean = facts.dataset.mean_tokens
    wanted = spec.global_batch_size * mean / max_length
    if spec.packing is False:
        return "JOB_PACKING=false"
    if facts.packing is not None and not facts.packing.isolated:
        return _unless_asked(spec, facts.packing.reason, "Set JOB_PACKING=false or leave it unset.")
    if packs % num_processes:
        enough = math.ceil(num_processes * max_length / mean)
        reason = f"{packs} packs of {max_length} tokens cannot be shared by {num_processes} processes"
        return _unless_asked(spec, reason, f"Set JOB_GLOBAL_BATCH_SIZE={enough}, or leave JOB_PACKING unset.")
    if spec.packing is True:
        return None
    if mean >= max_length / 2:
        return f"rows average {mean:.0f} tokens, half of max_length or more"
    if abs(packs - wanted) > PACKING_TOLERANCE * wanted:
        return f"{spec.global_batch_size} rows fill {wanted:.1f} packs, too few to keep the batch's tokens"
    return None


def _unless_asked(spec: JobSpec, reason: str, fix: str) -> str:
    if spec.packing is True:
        raise BadSpec(f"JOB_PACKING=true is not possible: {reason}.", fix)
    return reason


def _per_device(spec: JobSpec, global_batch: int, num_processes: int, packing: bool, reasons: dict[str, str]) -> int:
    """Rows per process in one forward pass: a divisor of each process's share of the global batch."""
    share, rest = divmod(global_batch, num_processes)
    if rest:
        raise BadSpec(
            f"JOB_GLOBAL_BATCH_SIZE={global_batch} cannot be shared by {num_processes} GPUs.",
            f"Set it to {-(-global_batch // num_processes) * num_processes}, or JOB_NUM_PROCESSES to a divisor of it.",
        )
    if packing and spec.per_device_train_batch_size in (None, 1):
        # A device's packs are flattened into one row, whose attention mask grows with the square of their number.
        reasons["batch"] = f"1 pack per process × {share} accumulation × {num_processes} processes"
        return 1
    if (asked := spec.per_device_train_batch_size) and share % asked:
        raise BadSpec(
            f"JOB_PER_DEVICE_TRAIN_BATCH_SIZE={asked} does not divide each GPU's share ({share}) of the global batch.",
            f"Set it to a divisor of {share}.",
        )
    per_device = asked or max(size for size in range(1, MAX_PER_DEVICE + 1) if share % size == 0)
    reasons["batch"] = f"{per_device} rows per process × {share // per_device} accumulation × {num_processes} processes"
    return per_device


def _precision(hardware: HardwareFacts, use_gpu: bool, reasons: dict[str, str]) -> Precision:
    if not use_gpu:
        reasons["precision"] = "fp32: training on a CPU"
        return "fp32"
    oldest = min(hardware.gpus, key=lambda gpu: gpu.compute_capability)
    if oldest.compute_capability >= BF16_COMPUTE_CAPABILITY:
        reasons["precision"] = f"bf16: {oldest.name} has it"
        return "bf16"
    reasons["precision"] = f"fp16 with loss scaling: {oldest.name} has no bf16"
    return "fp16"


def _gradient_checkpointing(spec: JobSpec, use_gpu: bool, reasons: dict[str, str]) -> bool:
    if spec.gradient_checkpointing != "auto":
        reasons["gradient_checkpointing"] = "as set"
        return spec.gradient_checkpointing
    reasons["gradient_checkpointing"] = "on: GPU memory is the scarce part" if use_gpu else "off: no GPU memory to save"
    return use_gpu
