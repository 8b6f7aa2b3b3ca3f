"""How long a row is, whether rows are packed, and how many of them one optimizer step takes from each process.

Pure, and the same for every number of GPUs but for one thing: whether packs can be shared by them.
"""

import math
from dataclasses import dataclass

from job.adapters import virtual_tokens
from job.compatibility import can_pack
from job.errors import BadSpec
from job.methods import METHODS
from job.records import Facts, ModelFacts
from job.spec import JobSpec

# Packs hold whole multiples of max_length tokens; further than this from the tokens asked for, packing stays off.
PACKING_TOLERANCE = 1 / 3
# Rows of the largest micro-batch (job.candidates).
MAX_SHARE = 8
# Numbers of GPUs that machines have, and how far from the tokens asked for the packs may be for their sake.
SHARED_BY = (8, 4, 2, 1)
SHARING_TOLERANCE = 1 / 4


@dataclass(frozen=True)
class Batch:
    """One optimizer step."""

    max_length: int  # tokens at which rows are cut
    longest: int  # tokens of the longest row that can come up, with virtual ones before it, or of a pack
    packing: bool
    rows: int  # rows or packs over all processes
    share: int  # of each process


def settle_batch(spec: JobSpec, facts: Facts, num_processes: int, reasons: dict[str, str]) -> Batch:
    """The optimizer step of *spec*, with its *reasons*.

    Raises:
        BadSpec: it cannot be shared by *num_processes*, or not packed although that was asked for.
    """
    max_length = _max_length(spec, facts, reasons)
    packing, rows = _packing(spec, facts, max_length, num_processes, reasons)
    dataset = facts.dataset
    if METHODS[spec.method].compares and dataset.epoch_rows is not None and dataset.epoch_rows < rows:
        raise BadSpec(
            f"JOB_GLOBAL_BATCH_SIZE={rows} is more than the {dataset.epoch_rows} rows there are, and JOB_METHOD="
            f"{spec.method} trains whole steps alone.",
            "Set it lower, or give more rows.",
        )
    # Of rows that were not all seen, one may be as long as is allowed.
    answer = spec.max_completion_length or 0
    longest = max_length if packing or dataset.sampled else min(max_length, dataset.max_tokens + answer)
    return Batch(max_length, longest + virtual_tokens(spec), packing, rows, _share(spec, rows, num_processes))


def effective_max_length(spec: JobSpec, model: ModelFacts) -> int:
    """Tokens of the longest row that is trained on: the setting, within the model's own limit, of which virtual tokens
    take their part."""
    return min(spec.max_length, model.max_length - virtual_tokens(spec) if model.max_length else spec.max_length)


def _max_length(spec: JobSpec, facts: Facts, reasons: dict[str, str]) -> int:
    length = effective_max_length(spec, facts.model)
    why = "as set" if length == spec.max_length else f"the model's own limit is below JOB_MAX_LENGTH={spec.max_length}"
    reasons["max_length"] = f"{length} tokens: {why}"
    return length


def _packing(
    spec: JobSpec, facts: Facts, max_length: int, num_processes: int, reasons: dict[str, str]
) -> tuple[bool, int]:
    """Whether to pack, and the global batch in sequences or in packs of the same number of tokens."""
    rows, mean = spec.global_batch_size, facts.dataset.mean_tokens
    packs = number_of_packs(rows * mean / max_length)
    off = _packing_objection(spec, facts, max_length, packs, num_processes)
    if off is None:
        reasons["packing"] = f"on: {_packs(packs, max_length)} hold about {rows} rows of {mean:.0f} tokens on average"
        return True, packs
    reasons["packing"] = f"off: {off}"
    return False, rows


def number_of_packs(wanted: float) -> int:
    """A whole number near *wanted* that as many machines as possible can share: a multiple of 8, of 4 or of 2 where one
    is near enough. It does not depend on how many GPUs there are."""
    multiples = ((size, max(size, round(wanted / size) * size)) for size in SHARED_BY)
    return next(packs for size, packs in multiples if size == 1 or abs(packs - wanted) <= SHARING_TOLERANCE * wanted)


def _packing_objection(spec: JobSpec, facts: Facts, max_length: int, packs: int, num_processes: int) -> str | None:
    """Why not to pack, or None. The number of packs never depends on the number of GPUs, only whether to pack does.

    Raises:
        BadSpec: packing was asked for and cannot be had.
    """
    mean = facts.dataset.mean_tokens
    wanted = spec.global_batch_size * mean / max_length
    if spec.packing is False:
        return "JOB_PACKING=false"
    if METHODS[spec.method].compares:
        return "answers are compared one by one"
    if spec.num_generations:
        return "answers are drawn to each prompt"
    if not can_pack(spec):
        return f"the virtual tokens of JOB_ADAPTER={spec.adapter} would stand before the first row of a pack alone"
    if facts.packing is not None and not facts.packing.isolated:
        return _unless_asked(spec, facts.packing.reason, "Set JOB_PACKING=false or leave it unset.")
    if packs % num_processes:
        enough = math.ceil(num_processes * max_length / mean)
        reason = f"{_packs(packs, max_length)} cannot be shared by {num_processes} processes"
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
        raise BadSpec(f"JOB_PACKING, or an earlier attempt, asks for packing, which is not possible: {reason}.", fix)
    return reason


def _share(spec: JobSpec, rows: int, num_processes: int) -> int:
    share, rest = divmod(rows, num_processes)
    if rest:
        raise BadSpec(
            f"JOB_GLOBAL_BATCH_SIZE={rows} cannot be shared by {num_processes} GPUs.",
            f"Set it to {-(-rows // num_processes) * num_processes}, or JOB_NUM_PROCESSES to a divisor of it.",
        )
    if (asked := spec.per_device_train_batch_size) and share % asked:
        raise BadSpec(
            f"JOB_PER_DEVICE_TRAIN_BATCH_SIZE={asked} does not divide each GPU's share ({share}) of the global batch.",
            f"Set it to a divisor of {share}.",
        )
    least = METHODS[spec.method].least
    if all(share % size for size in range(least, MAX_SHARE + 1)):
        raise BadSpec(
            f"JOB_GLOBAL_BATCH_SIZE={rows} leaves each of {num_processes} GPUs {share} rows, of which JOB_METHOD="
            f"{spec.method} cannot make micro-batches of at least {least}.",
            f"Set it to {2 * least * num_processes}.",
        )
    return share


def _packs(number: int, max_length: int) -> str:
    return f"{number} pack{'s' * (number > 1)} of {max_length} tokens"
