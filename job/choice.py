"""Which of the ways to run the job is taken, and why the others are not."""

from dataclasses import dataclass

from job.candidates import Candidate, Case, candidate, candidates, per_device_sizes, ways
from job.compatibility import can_checkpoint
from job.memory import GIB, base_bytes
from job.records import Alternative

# A faster candidate than this is worth more memory; below it the arithmetic is not that exact.
WORTH_IT = 1.02
# Of the host's memory, what an offloaded base may take: the page cache and the data need some.
HOST_SHARE = 0.8


@dataclass(frozen=True)
class Choice:
    """The candidate taken, and the best of every other way with the reason why it was not."""

    taken: Candidate
    alternatives: tuple[Alternative, ...]


def choose(case: Case) -> Choice | None:
    """The first way in order of preference that fits, at its fastest; None when none fits."""
    best = best_of_each_way(case)
    taken = next((one for one in best if one.memory.fits and _host_holds(one, case)), None)
    if taken is None:
        return None
    others = [one for one in best if one is not taken] + _checkpointed_otherwise(taken, case)
    return Choice(taken, tuple(_alternative(other, taken, case) for other in others))


def best_of_each_way(case: Case) -> list[Candidate]:
    """In order of preference."""
    return [_best(candidates(case, way)) for way in ways(case)]


def host_lacks(one: Candidate, case: Case) -> str:
    return f"the host has {case.facts.hardware.memory_gib:.0f} GiB for a base of {_base_gib(one, case):.0f} GiB"


def _best(tier: list[Candidate]) -> Candidate:
    """Of those that fit the fastest, or one that is nearly as fast and needs less memory; else the smallest."""
    fitting = [one for one in tier if one.memory.fits]
    fastest = max((one.tokens_per_s for one in fitting), default=0.0)
    fast = [one for one in fitting if one.tokens_per_s * WORTH_IT >= fastest]
    return min(fast or tier, key=lambda one: one.memory.total_gib)


def _host_holds(one: Candidate, case: Case) -> bool:
    host_gib = case.facts.hardware.memory_gib  # 0: not known, as the GPUs are elsewhere
    return not (one.setup.cpu_offload and host_gib) or _base_gib(one, case) <= HOST_SHARE * host_gib


def _base_gib(one: Candidate, case: Case) -> float:
    return base_bytes(case.parameters, one.setup) / GIB


def _checkpointed_otherwise(taken: Candidate, case: Case) -> list[Candidate]:
    """The best of the taken way with the other choice about checkpointing, where that is open."""
    if case.spec.gradient_checkpointing != "auto" or not can_checkpoint(case.spec):
        return []
    other = not taken.setup.gradient_checkpointing
    return [_best([candidate(case, taken.way, other, size) for size in per_device_sizes(case)])]


def _alternative(other: Candidate, taken: Candidate, case: Case) -> Alternative:
    setup = other.setup
    return Alternative(
        strategy=setup.strategy,
        quantization=setup.quantization,
        cpu_offload=setup.cpu_offload,
        gradient_checkpointing=setup.gradient_checkpointing,
        per_device_train_batch_size=setup.per_device,
        memory_gib=round(other.memory.total_gib, 2),
        fits=other.memory.fits,
        tokens_per_s=round(other.tokens_per_s, 1),
        verdict=_verdict(other, taken, case),
    )


def _verdict(other: Candidate, taken: Candidate, case: Case) -> str:
    """Why *other* lost."""
    if not other.memory.fits:
        return f"needs {other.memory.total_gib:.1f} of {other.memory.limit_gib:.1f} GiB"
    if not _host_holds(other, case):
        return host_lacks(other, case)
    if other.setup.cpu_offload and not taken.setup.cpu_offload:
        return "moves the base from the host's memory in every step, which is not needed"
    if other.setup.quantization != taken.setup.quantization:
        return "a quantized base is less exact, and not needed"
    if other.way != taken.way:
        return "moves the base in every step, which is not needed"
    return f"{other.tokens_per_s / taken.tokens_per_s:.0%} of the speed"
