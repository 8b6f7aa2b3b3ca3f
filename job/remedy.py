"""When nothing fits: the cheapest change that would, a setting before a GPU."""

from collections.abc import Callable, Iterator

from job.adapters import KINDS
from job.candidates import Case
from job.choice import best_of_each_way, choose, host_lacks
from job.errors import BadSpec
from job.facts.gpus import by_memory
from job.records import Gpu, HardwareFacts
from job.spec import JobSpec

SHORTEST = 512  # tokens; below it rows are mostly cut
COUNTS = (1, 2, 4, 8)  # GPUs that machines are rented with

MakeCase = Callable[[JobSpec, HardwareFacts], Case]


def nothing_fits(case: Case, make_case: MakeCase) -> BadSpec:
    """The refusal, with what is lacking and the first change in order of its price that helps."""
    kinds = " and ".join(dict.fromkeys(gpu.name for gpu in case.facts.hardware.gpus))
    return BadSpec(
        f"JOB_MODEL={case.spec.model} does not fit on {case.num_processes} × {kinds}: {_lack(case)}.",
        _fix(case, make_case),
    )


def _lack(case: Case) -> str:
    """Of the ways, what is lacking to the one that needs least of a GPU. One that fits there does not fit the host."""
    ways = best_of_each_way(case)
    on_gpus = [one for one in ways if not one.memory.fits]
    if not on_gpus:
        return host_lacks(ways[0], case)
    smallest = min(on_gpus, key=lambda one: one.memory.total_gib)
    parts = ", ".join(f"{item.name} {item.gib:.1f}" for item in smallest.memory.items)
    on_host = [f", and {host_lacks(one, case)}" for one in ways if one.memory.fits]
    return (
        f"at the least each GPU needs {smallest.memory.total_gib:.1f} GiB of {smallest.memory.limit_gib:.1f} GiB "
        f"({parts}){''.join(on_host)}"
    )


def _fix(case: Case, make_case: MakeCase) -> str:
    hardware = case.facts.hardware
    for spec, words in _settings(case):
        if _fits(spec, hardware, make_case):
            return f"{words}."
    for gpus, words in _machines():
        for spec, before in _starts(case.spec):
            if _fits(spec, hardware.model_copy(update={"gpus": gpus, "memory_gib": 0.0}), make_case):
                return f"{_sentence(before, words)}, or a smaller model."
    return "Take a smaller model."


def _fits(spec: JobSpec, hardware: HardwareFacts, make_case: MakeCase) -> bool:
    """Whether *spec* fits into the GPUs themselves: nobody should be advised to wait for the host's memory."""
    try:
        choice = choose(make_case(spec, hardware))
    except BadSpec:  # the batch cannot be shared by so many
        return False
    return choice is not None and not choice.taken.setup.cpu_offload


def _settings(case: Case) -> Iterator[tuple[JobSpec, str]]:
    """Settings that the user has narrowed, opened one at a time and then together; then shorter rows."""
    for name, value in _narrowed(case.spec).items():
        yield case.spec.model_copy(update={name: value}), _leave([name])
    if KINDS[case.spec.adapter].is_full:
        yield case.spec.model_copy(update={"adapter": "lora"}), "Set JOB_ADAPTER=lora"
    for spec, before in _starts(case.spec):
        if before:
            yield spec, before
        length = case.batch.max_length // 2
        while length >= SHORTEST:
            yield spec.model_copy(update={"max_length": length}), _sentence(before, f"set JOB_MAX_LENGTH={length}")
            length //= 2


def _machines() -> Iterator[tuple[tuple[Gpu, ...], str]]:
    """GPUs in about the order of their price: by the memory of all together."""
    machines = [(count, name, gpu) for count in COUNTS for name, gpu in by_memory()]
    for count, name, gpu in sorted(machines, key=lambda machine: machine[0] * round(machine[2].memory_gib)):
        yield (gpu,) * count, f"take {count} × {name}"


def _starts(spec: JobSpec) -> Iterator[tuple[JobSpec, str]]:
    """The settings as they are, and with all that the user has narrowed opened."""
    yield spec, ""
    if narrowed := _narrowed(spec):
        yield spec.model_copy(update=narrowed), _leave(list(narrowed))


def _narrowed(spec: JobSpec) -> dict[str, object]:
    free = {
        "gradient_checkpointing": "auto", "per_device_train_batch_size": None, "num_processes": None,
        "strategy": "auto", "quantization": "auto", "cpu_offload": "auto",
    }  # fmt: skip
    return {name: value for name, value in free.items() if getattr(spec, name) != value}


def _leave(names: list[str]) -> str:
    return f"Leave {' and '.join(f'JOB_{name.upper()}' for name in names)} unset"


def _sentence(before: str, words: str) -> str:
    return f"{before} and {words}" if before else words[0].upper() + words[1:]
