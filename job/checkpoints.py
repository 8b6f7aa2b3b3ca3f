"""Which of the Trainer's checkpoints on this machine a run can go on from. Pure but for looking at files; no torch."""

import json
import re
from pathlib import Path

from job.records import Plan

_NAME = re.compile(r"checkpoint-(\d+)")  # the Trainer's; the number is the step


def newest_checkpoint(folder: Path, plan: Plan) -> Path | None:
    """The complete checkpoint of the highest step in *folder*, or None. One that was being written when its run died is
    passed over for the one before."""
    steps = {int(match[1]): path for path in folder.glob("*") if (match := _NAME.fullmatch(path.name))}
    return next((steps[step] for step in sorted(steps, reverse=True) if is_complete(steps[step], plan)), None)


def is_complete(checkpoint: Path, plan: Plan) -> bool:
    """Whether *checkpoint* holds all that a run under *plan* needs to go on as if nothing had happened.

    Checkpoints of FSDP, of DeepSpeed and of the other strategies are not interchangeable, and the first two belong to a
    number of processes; without its optimizer's state, the Trainer would start that afresh and say nothing.
    """
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_bytes())  # written last
    except (OSError, ValueError):
        return False
    files = [checkpoint / name for name in _needed(plan, state.get("global_step"))]
    return all(path.is_file() and path.stat().st_size for path in files)


def _needed(plan: Plan, step: int) -> list[str]:
    match plan.strategy:
        case "fsdp":
            return ["scheduler.pt", "optimizer.bin", "pytorch_model_fsdp.bin"]
        case "zero2" | "zero3":
            return ["scheduler.pt", "latest", *_deepspeed_files(plan, f"global_step{step}")]
        case _:
            return ["scheduler.pt", "optimizer.pt", "adapter_model.safetensors"]


def _deepspeed_files(plan: Plan, folder: str) -> list[str]:
    kind = "bf16_" if plan.precision == "bf16" else ""
    parts = [f"zero_pp_rank_{rank}_mp_rank_00" for rank in range(plan.num_processes)]
    models = (
        [f"{part}_model_states.pt" for part in parts] if plan.strategy == "zero3" else ["mp_rank_00_model_states.pt"]
    )
    return [f"{folder}/{name}" for name in models + [f"{kind}{part}_optim_states.pt" for part in parts]]
