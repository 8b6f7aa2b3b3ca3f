"""What the worker does at every step besides training: report, obey the stop file, notice a loss that is no number."""

import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from job.events import EventLog


class Progress(TrainerCallback):  # type: ignore[misc]
    """Rank 0 writes each logging step to ``log.jsonl``."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.first_step_at = self.last_step_at = 0.0  # seconds since the epoch
        self.tokens = 0
        self.eval_s = 0.0  # in evaluations between the first step and the last

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self._log.write("train_begin", step=state.global_step, total_steps=state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.last_step_at = time.time()
        if state.is_world_process_zero and not self.first_step_at:
            self.first_step_at = self.last_step_at
            self._log.write("first_step", step=state.global_step, total_steps=state.max_steps)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float], **_: Any
    ) -> None:
        self.tokens = int(logs.get("num_tokens", self.tokens))
        if 0 < state.global_step < state.max_steps:
            self.eval_s += logs.get("eval_runtime", 0.0)
        if state.is_world_process_zero:
            kind = "evaluation" if "eval_loss" in logs else "train" if "loss" in logs else "train_end"
            self._log.write(kind, step=state.global_step, total_steps=state.max_steps, **logs)


class StopFile(TrainerCallback):  # type: ignore[misc]
    """Stops all ranks after the same step once the stop file exists.

    Each step starts an all-reduce (MAX) of "I have seen it" and reads the one that the step before started, so that
    no step waits for the network and every rank decides on the same number.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending: tuple[dist.Work, torch.Tensor] | None = None
        self.stopped = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        finished = state.global_step >= state.max_steps
        if self._agreed(args) and not finished:
            self.stopped = True
            control.should_training_stop = True
            control.should_evaluate = False

    def _agreed(self, args: TrainingArguments) -> bool:
        seen = self._path.exists()
        if args.world_size == 1:
            return seen
        agreed = self._result()
        flag = torch.tensor([int(seen)], device=args.device)
        work = dist.all_reduce(flag, op=dist.ReduceOp.MAX, async_op=True)
        self._pending = (work, flag)
        return agreed

    def _result(self) -> bool:
        if self._pending is None:
            return False
        work, flag = self._pending
        work.wait()
        return bool(flag.item())


class CompleteHistory(TrainerCallback):  # type: ignore[misc]
    """Logs the loss before every checkpoint and at the end: what was not logged by then, no later run knows of."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if control.should_save or control.should_training_stop:
            control.should_log = True


class FiniteLoss(TrainerCallback):  # type: ignore[misc]
    """Ends training when the logged loss or gradient norm is NaN or infinite."""

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float], **_: Any
    ) -> None:
        for name in ("loss", "grad_norm"):
            value = float(logs.get(name, 0.0))
            if not math.isfinite(value):
                raise FloatingPointError(f"{name} is {value} at step {state.global_step} of {state.max_steps}.")
