"""The choice in words."""

from collections.abc import Iterable

from job.candidates import Candidate, Case, Way
from job.choice import Choice
from job.memory import GIB, Setup, base_bytes
from job.records import Alternative, Decided


def why_strategy(case: Case, choice: Choice) -> str:
    """What runs where, and why not the way before it in order of preference."""
    setup, gpus = choice.taken.setup, case.facts.hardware.gpus
    kinds = " and ".join(dict.fromkeys(gpu.name for gpu in gpus))
    what = f"{setup.strategy} over {case.num_processes} × {kinds}"
    if setup.cpu_offload:
        what += f", the base in {base_bytes(case.parameters, setup) / GIB:.0f} GiB of the host's memory"
    if case.spec.strategy == setup.strategy:
        return f"{what}, as set"
    if setup.shards_base and (before := _least_before(choice)):
        without = "without that" if before.strategy == setup.strategy else f"with {before.strategy}"
        return f"{what}: {without} each GPU {before.verdict}"
    if setup.strategy == "ddp":
        if setup.full:
            return f"{what}: all weights fit beside the activations, so that only their gradients travel"
        return f"{what}: the base fits beside its activations, so that only the adapter's gradients travel"
    return what


def why_quantization(case: Case, choice: Choice, decided: Decided | None) -> str:
    taken, spec = choice.taken.setup, case.spec
    if decided:
        return f"{taken.quantization}, as an earlier attempt decided"
    if spec.quantization != "auto" or spec.adapter == "qlora":
        return f"{taken.quantization}, as set"
    if taken.quantization == "none":
        return _why_exact(taken, choice)
    exact = _smallest(other for other in choice.alternatives if other.quantization == "none" and not other.cpu_offload)
    return f"{taken.quantization}: in {taken.precision} {exact.strategy} {exact.verdict} per GPU"


def _why_exact(taken: Setup, choice: Choice) -> str:
    if taken.full:
        return f"none: all weights are trained, in {taken.adapter_dtype}"
    if not taken.cpu_offload:
        return f"none: the base fits in {taken.precision}"
    quantized = [other for other in choice.alternatives if other.quantization != "none"]
    but = f", and quantized it {_smallest(quantized).verdict} per GPU" if quantized else ""
    return f"none: the host's memory holds the base in {taken.precision}{but}"


def why_checkpointing(case: Case, choice: Choice) -> str:
    on = choice.taken.setup.gradient_checkpointing
    if case.spec.gradient_checkpointing != "auto":
        return "as set"
    other = choice.alternatives[-1]
    return f"{'on' if on else 'off'}: {'without' if on else 'with'} it {_outcome(other)}"


def why_memory(case: Case, taken: Candidate) -> str:
    whole_gib = min(gpu.memory_gib for gpu in case.facts.hardware.gpus)
    memory = taken.memory
    return f"{memory.total_gib:.1f} GiB of the {memory.limit_gib:.1f} GiB that a plan may use of {whole_gib:.1f} GiB"


def _least_before(choice: Choice) -> Alternative | None:
    """Of the ways with the same quantization that did not fit, the one that needs the least memory."""
    taken = choice.taken
    failed = [other for other in choice.alternatives if not other.fits and not _is_way_of(taken, other)]
    same = [other for other in failed if other.quantization == taken.setup.quantization]
    return _smallest(same) if same else None


def _smallest(others: Iterable[Alternative]) -> Alternative:
    return min(others, key=lambda other: other.memory_gib)


def _is_way_of(taken: Candidate, other: Alternative) -> bool:
    return taken.way == Way(other.strategy, other.quantization, other.cpu_offload)


def _outcome(other: Alternative) -> str:
    return f"there is {other.verdict}" if other.fits else f"a step {other.verdict}"


def why_optim(asked: str, optim: str) -> str:
    """One sentence on the optimizer."""
    if asked != "auto":
        return f"{optim}: as set"
    if optim.startswith("paged"):
        return f"{optim}: its states give way to the host's memory at a peak"
    return f"{optim}: AdamW in one kernel"
