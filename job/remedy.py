"""When nothing fits: the cheapest change that would, a setting before a GPU."""

from collections.abc import Callable, Iterator

from job.candidates import Case, candidates, ways
from job.choice import choose
from job.errors import BadSpec
from job.facts.gpus import by_memory
from job.records import HardwareFacts
from job.spec import JobSpec

SHORTEST = 512  # tokens; below it rows are mostly cut
COUNTS = (1, 2, 4, 8)  # GPUs that machines are rented with

MakeCase = Callable[[JobSpec, HardwareFacts], Case]


def nothing_fits(case: Case, make_case: MakeCase) -> BadSpec:
    """The refusal, with what is lacking and the first change in order of its price that helps."""
    gpus = case.facts.hardware.gpus
    smallest = min((one for way in ways(case) for one in candidates(case, way)), key=lambda one: one.memory.total_gib)
    need, limit = smallest.memory.total_gib, smallest.memory.limit_gib
    parts = ", ".join(f"{item.name} {item.gib:.1f}" for item in smallest.memory.items)
    return BadSpec(
        f"JOB_MODEL={case.spec.model} does not fit on {len(gpus)} × {gpus[0].name}: at the least each GPU needs "
        f"{need:.1f} GiB of {limit:.1f} GiB ({parts}).",
        _fix(case, make_case),
    )


def _fix(case: Case, make_case: MakeCase) -> str:
    for spec, words in _settings(case):
        if _fits(spec, case.facts.hardware, make_case):
            return words
    hardware = case.facts.hardware
    for count in (count for count in COUNTS if count >= len(hardware.gpus)):
        for name, gpu in by_memory():
            if _fits(case.spec, hardware.model_copy(update={"gpus": (gpu,) * count, "memory_gib": 0.0}), make_case):
                return f"Take {count} × {name}, or a smaller model."
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
    spec = case.spec
    free = {
        "gradient_checkpointing": "auto", "per_device_train_batch_size": None, "strategy": "auto",
        "quantization": "auto", "cpu_offload": "auto",
    }  # fmt: skip
    narrowed = {name: value for name, value in free.items() if getattr(spec, name) != value}
    for name, value in narrowed.items():
        yield spec.model_copy(update={name: value}), f"Leave JOB_{name.upper()} unset."
    names = " and ".join(f"JOB_{name.upper()}" for name in narrowed)
    if len(narrowed) > 1:
        yield spec.model_copy(update=narrowed), f"Leave {names} unset."
    length = case.batch.max_length // 2
    while length >= SHORTEST:
        yield spec.model_copy(update={"max_length": length}), f"Set JOB_MAX_LENGTH={length}."
        length //= 2
