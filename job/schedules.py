"""The Trainer's learning-rate schedules, and the arguments that each takes (transformers 5.23, optimization.py)."""

from collections.abc import Mapping
from typing import Any

_FLOOR = ("min_lr", "min_lr_rate", "num_cycles")
SCHEDULE_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "linear": (),
    "cosine": ("num_cycles",),
    "cosine_with_restarts": ("num_cycles",),
    "cosine_with_min_lr": _FLOOR,
    "cosine_warmup_with_min_lr": (*_FLOOR, "warmup_lr_rate"),
    "polynomial": ("lr_end", "power"),
    "constant": (),
    "constant_with_warmup": (),
    "inverse_sqrt": ("timescale",),
    "warmup_stable_decay": (
        "num_decay_steps", "num_stable_steps", "warmup_type", "decay_type", "min_lr_ratio", "num_cycles",
    ),
    "reduce_lr_on_plateau": ("factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lr", "eps"),
}  # fmt: skip
# Of these one must be given.
_NEEDED = {
    "cosine_with_min_lr": ("min_lr_rate", "min_lr"),
    "cosine_warmup_with_min_lr": ("min_lr_rate", "min_lr"),
    "warmup_stable_decay": ("num_decay_steps",),
}


def schedule_problem(schedule: str, arguments: Mapping[str, Any]) -> str | None:
    """What is wrong with the *arguments* of a *schedule*, as the rest of a sentence, or None."""
    takes, needed = SCHEDULE_ARGUMENTS[schedule], _NEEDED.get(schedule, ())
    if unknown := [name for name in arguments if name not in takes]:
        return f"has no argument {unknown[0]!r}; it takes {', '.join(takes) or 'none'}"
    if needed and not any(name in arguments for name in needed):
        return f'needs {" or ".join(needed)}; set JOB_LR_SCHEDULER_KWARGS={{"{needed[0]}": …}}'
    return None
