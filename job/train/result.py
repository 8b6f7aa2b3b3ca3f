"""What rank 0 leaves behind of a training."""

import importlib.metadata
from collections.abc import Iterable

import torch

from job.records import AdapterProof, AddedTokens, LogEntry, Plan, TrainResult
from job.train.callbacks import Progress
from job.train.trainer import AdapterTrainer

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes")


def train_result(
    trainer: AdapterTrainer, progress: Progress, stopped: bool, proof: AdapterProof | None, added: AddedTokens
) -> TrainResult:
    """What *trainer* has done, all attempts together."""
    history = _entries(trainer, "loss")
    return TrainResult(
        status="stopped" if stopped else "finished",
        steps=trainer.state.global_step,
        total_steps=trainer.state.max_steps,
        resumed_at_step=trainer.resumed_at_step,
        epoch=trainer.state.epoch or 0.0,
        train_runtime_s=progress.train_s,
        timed_steps=progress.timed_steps,
        after_first_step_s=progress.timed_s,
        tokens=progress.tokens,
        train_loss=mean_loss(history),
        history=history,
        eval_history=_entries(trainer, "eval_loss"),
        adapter=proof,
        added_tokens=added,
        peak_gpu_memory_gib=_peak_gpu_memory_gib(trainer.plan),
        versions={name: importlib.metadata.version(name) for name in PACKAGES},
    )


def mean_loss(history: Iterable[LogEntry]) -> float:
    """The mean loss of a step over the whole run. Each entry holds the mean since the one before; what the Trainer
    itself reports after a resume leaves out the steps before."""
    total, last = 0.0, 0
    for entry in history:
        total += entry.values["loss"] * (entry.step - last)
        last = entry.step
    return total / last if last else 0.0


def _entries(trainer: AdapterTrainer, key: str) -> tuple[LogEntry, ...]:
    return tuple(
        LogEntry(step=entry["step"], values={k: float(v) for k, v in entry.items() if k != "step"})
        for entry in trainer.state.log_history
        if key in entry
    )


def _peak_gpu_memory_gib(plan: Plan) -> float | None:
    return round(torch.cuda.max_memory_allocated() / 2**30, 3) if plan.use_gpu else None
