"""What rank 0 leaves behind of a training."""

import importlib.metadata
from collections.abc import Iterable
from typing import NamedTuple

import torch

from job.records import AdapterProof, AddedTokens, LogEntry, Plan, SampleAnswer, TrainResult
from job.train.best import Best
from job.train.callbacks import Progress
from job.train.trainer import AdapterTrainer

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes")


class Ending(NamedTuple):
    """How a training ended."""

    stopped: bool  # by the stop file
    best: Best
    proof: AdapterProof | None
    samples: tuple[SampleAnswer, ...] = ()

    @property
    def published_step(self) -> int | None:
        """The step whose adapter the model now has; None: that of the last step."""
        return None if self.stopped else self.best.loaded_step


def train_result(trainer: AdapterTrainer, ending: Ending, progress: Progress, added: AddedTokens) -> TrainResult:
    """What *trainer* has done, all attempts together."""
    history = _entries(trainer, "loss")
    start = trainer.task.start
    return TrainResult(
        status="stopped" if ending.stopped else "finished",
        steps=trainer.state.global_step,
        total_steps=trainer.state.max_steps,
        published_step=ending.published_step or trainer.state.global_step,
        stopped_early=ending.best.stopped_early and not ending.stopped,
        resumed_at_step=trainer.resumed_at_step,
        epoch=trainer.state.epoch or 0.0,
        train_runtime_s=progress.train_s,
        timed_steps=progress.timed_steps,
        after_first_step_s=progress.timed_s,
        tokens=progress.tokens,
        train_loss=mean_loss(history),
        history=history,
        eval_history=_entries(trainer, "eval_loss"),
        adapter=ending.proof,
        added_tokens=added,
        merged_adapter=start.location if start and start.how == "merge" else None,
        peak_gpu_memory_gib=_peak_gpu_memory_gib(trainer.plan),
        samples=ending.samples,
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
