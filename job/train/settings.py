"""What TRL is told, whatever the method: the arguments that all of its configurations take."""

import json
from pathlib import Path
from typing import Any

from job.records import Plan, TrainTask
from job.rundir import RunDir
from job.spec import JobSpec

# Evaluations over a run when the user names no interval: at least this many, and one per epoch.
MIN_EVALUATIONS = 5


def shared_settings(spec: JobSpec, plan: Plan, task: TrainTask, run_dir: RunDir, sequences: int) -> dict[str, Any]:
    """The arguments of TRL's configurations, for a dataset of *sequences* rows or packs."""
    settings: dict[str, Any] = {
        "output_dir": str(run_dir.checkpoints),
        "num_train_epochs": spec.num_train_epochs,
        "max_steps": spec.max_steps or -1,
        "learning_rate": spec.learning_rate,
        "lr_scheduler_type": spec.lr_scheduler_type,
        "warmup_steps": spec.warmup_steps,
        "lr_scheduler_kwargs": spec.lr_scheduler_kwargs,
        "weight_decay": spec.weight_decay,
        "max_grad_norm": spec.max_grad_norm,
        "optim": plan.optim,
        "seed": spec.seed,
        "per_device_train_batch_size": plan.per_device_train_batch_size,
        "per_device_eval_batch_size": plan.per_device_train_batch_size,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        "gradient_checkpointing": plan.gradient_checkpointing,
        "bf16": plan.precision == "bf16",
        "fp16": plan.precision == "fp16",
        "use_cpu": not plan.use_gpu,
        "dataloader_pin_memory": plan.use_gpu,
        "logging_steps": spec.logging_steps,
        "logging_first_step": True,
        # The filter would replace a NaN loss by the running mean in the log.
        "logging_nan_inf_filter": False,
        "ddp_find_unused_parameters": False,
        "save_total_limit": None,  # the job removes old ones itself, and only when the newer are whole
        "report_to": "none",
        "disable_tqdm": True,
    }
    # By time, rank 0 decides (job/train/callbacks.py).
    if spec.save_steps == "auto":
        settings["save_strategy"] = "no"
    else:
        settings |= {"save_strategy": "steps", "save_steps": spec.save_steps}
    if task.has_eval:
        eval_steps = _eval_steps(spec, plan, sequences)
        settings |= {
            "eval_strategy": "steps",
            "eval_on_start": task.resume_from is None or _owes_evaluation(task.resume_from, eval_steps),
            "eval_steps": eval_steps,
        }
    return settings | spec.trainer_args


def _owes_evaluation(checkpoint: Path, eval_steps: int) -> bool:
    """Whether *checkpoint* is of a step that was to be evaluated, which a stop has put off."""
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    step = state["global_step"]
    return step % eval_steps == 0 and all(
        entry["step"] < step for entry in state["log_history"] if "eval_loss" in entry
    )


def _eval_steps(spec: JobSpec, plan: Plan, sequences: int) -> int:
    least = _total_steps(spec, plan, sequences) // MIN_EVALUATIONS
    return spec.eval_steps or max(1, min(plan.steps_per_epoch(sequences), least))


def _total_steps(spec: JobSpec, plan: Plan, sequences: int) -> int:
    return spec.max_steps or int(plan.steps_per_epoch(sequences) * spec.num_train_epochs)
