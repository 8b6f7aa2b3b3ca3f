"""Which of the checkpoints on this machine a run can go on from. Pure but for looking at files; no torch."""

import re
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from job.records import Layout, Plan
from job.rundir import read_record

LAYOUT = "layout.json"  # a checkpoint's last file
ON_TOP = "starts_from.json"  # beside an adapter that belongs on a base with another one merged into it
BEST = "best.safetensors"  # the adapter that evaluated best, where it is not the checkpoint's own
_NAME = re.compile(r"checkpoint-(\d+)")  # the Trainer's; the number is the step


def newest_checkpoint(folder: Path, plan: Plan) -> Path | None:
    """The complete checkpoint of the highest step in *folder* that suits *plan*, or None. One that was being written
    when its run died is passed over for the one before."""
    return next((path for path in by_step(folder) if is_complete(path, plan)), None)


def by_step(folder: Path) -> list[Path]:
    """All that is called a checkpoint in *folder*, the highest step first."""
    steps = {int(match[1]): path for path in folder.glob("*") if (match := _NAME.fullmatch(path.name))}
    return [steps[step] for step in sorted(steps, reverse=True)]


def step_of(checkpoint: Path) -> int:
    """The step that the name of *checkpoint* tells."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def superfluous(kept: Iterable[Layout], limit: int) -> list[int]:
    """The steps of those that go when the *limit* newest and the best by evaluation loss stay."""
    layouts = sorted(kept, key=lambda layout: layout.step, reverse=True)
    measured = [(layout.eval_loss, -layout.step) for layout in layouts if layout.eval_loss is not None]
    best = -min(measured)[1] if measured else None
    return [layout.step for layout in layouts[limit:] if layout.step != best]


def is_complete(checkpoint: Path, plan: Plan) -> bool:
    """Whether *checkpoint* holds all that a run under *plan* needs to go on as if nothing had happened.

    Checkpoints of FSDP, of DeepSpeed and of the other strategies are not interchangeable; without its optimizer's
    state, the Trainer would start that afresh and say nothing.
    """
    try:
        layout = read_record(checkpoint / LAYOUT, Layout)
    except (OSError, ValidationError):
        return False
    files = [checkpoint / name for name in _needed(layout)]
    return layout.suits(plan) and all(path.is_file() and path.stat().st_size for path in files)


def _needed(layout: Layout) -> list[str]:
    common = ["trainer_state.json", "scheduler.pt", *_random_states(layout.num_processes)]
    if layout.precision == "fp16" and layout.strategy not in ("zero2", "zero3"):  # whose engine holds its own scale
        common.append("scaler.pt")
    if layout.best_step not in (None, layout.step):
        common.append(BEST)
    match layout.strategy:
        case "fsdp":
            return [*common, "optimizer.bin", "pytorch_model_fsdp.bin"]
        case "zero2" | "zero3":
            return [*common, "latest", *_deepspeed_files(layout)]
        case _:
            weights = "model.safetensors" if layout.full else "adapter_model.safetensors"
            return [*common, "optimizer.pt", weights]


def _random_states(num_processes: int) -> list[str]:
    if num_processes == 1:
        return ["rng_state.pth"]
    return [f"rng_state_{rank}.pth" for rank in range(num_processes)]


def _deepspeed_files(layout: Layout) -> list[str]:
    kind = "bf16_" if layout.precision == "bf16" else ""
    parts = [f"zero_pp_rank_{rank}_mp_rank_00" for rank in range(layout.num_processes)]
    models = (
        [f"{part}_model_states.pt" for part in parts] if layout.strategy == "zero3" else ["mp_rank_00_model_states.pt"]
    )
    return [f"global_step{layout.step}/{name}" for name in models + [f"{kind}{part}_optim_states.pt" for part in parts]]
