"""What the worker does at every step besides training: report, obey, judge the loss, show that it lives."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from job.events import EventLog
from job.records import Pushed, StopNotice
from job.rundir import read_record
from job.train.agreement import Agreed, EvaluationStopped
from job.train.health import FIRST_STEPS
from job.train.save_pace import STOP_AND_SAVE
from job.train.trainer import AdapterTrainer


class Progress(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Rank 0 writes each logging step to ``log.jsonl``. Times stand in the checkpoints, and a resumed run counts on."""

    def __init__(self, log: EventLog, before: Mapping[str, float], tokens: int) -> None:
        """*before* and *tokens*: the times, as a checkpoint holds them, and the tokens of the run that is gone on with;
        else nothing."""
        self._log = log
        self.first_step_at = self.last_step_at = 0.0  # seconds since the epoch
        self.tokens = tokens
        self._evaluated_s = 0.0  # between the first step and the last
        self._steps = 0
        self._before = before
        self._began_at, self._ended_at = time.time(), 0.0

    @property
    def train_s(self) -> float:
        """Seconds of training so far, without the steps that were lost with a process."""
        return self._before.get("train_s", 0.0) + (self._ended_at or time.time()) - self._began_at

    @property
    def timed_steps(self) -> int:
        """Steps but the first, and the first after each resume."""
        return int(self._before.get("timed_steps", 0)) + max(0, self._steps - 1)

    @property
    def timed_s(self) -> float:
        """Seconds of the timed steps, evaluations left out."""
        now = self.last_step_at - self.first_step_at - self._evaluated_s if self._steps > 1 else 0.0
        return self._before.get("timed_s", 0.0) + now

    def state(self) -> dict[str, Any]:
        """What the Trainer writes to ``trainer_state.json``."""
        times = {"train_s": self.train_s, "timed_steps": self.timed_steps, "timed_s": self.timed_s}
        return {"args": {}, "attributes": times}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._began_at = time.time()
        if state.is_world_process_zero:
            self._log.write("train_begin", step=state.global_step, total_steps=state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.last_step_at = time.time()
        self._steps += 1
        if self._steps == 1:
            self.first_step_at = self.last_step_at
            if state.is_world_process_zero:
                self._log.write("first_step", step=state.global_step, total_steps=state.max_steps)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._ended_at = time.time()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float], **_: Any
    ) -> None:
        self.tokens = int(logs.get("num_tokens", self.tokens))
        if self._steps and state.global_step < state.max_steps:
            self._evaluated_s += logs.get("eval_runtime", 0.0)
        if state.is_world_process_zero:
            kind = "evaluation" if "eval_loss" in logs else "train" if "loss" in logs else "train_end"
            self._log.write(kind, step=state.global_step, total_steps=state.max_steps, **logs)


class Obey(TrainerCallback):  # type: ignore[misc]
    """Stops and saves when rank 0 wants it, on all ranks after the same step, or the same batch of an evaluation: what
    it asks for at one is done at the next (`Agreement`). Rank 0 alone looks at the stop file and at the clock."""

    def __init__(self, trainer: AdapterTrainer, *, by_time: bool) -> None:
        """*by_time*: checkpoints are due by the clock and after a good evaluation, not every so many steps."""
        self._trainer, self._by_time = trainer, by_time
        self.stopped = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The intervals are those of this attempt's settings; upstream goes on with the checkpoint's."""
        state.compute_steps(args, state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        agreed = self._trainer.exchange(self._asked() if state.is_world_process_zero else Agreed())
        if state.global_step <= FIRST_STEPS:
            control.should_log = True  # for their gradient norms
        finished = state.global_step >= state.max_steps
        if agreed.stop and not finished:
            self.stopped = control.should_training_stop = True
            control.should_evaluate = False
        owed = self._trainer.owes_checkpoint and not self._trainer.health.uneasy and not agreed.stop
        wanted = agreed.stop == STOP_AND_SAVE or agreed.save or owed
        # The last step too: what comes behind it takes time, and may be interrupted.
        control.should_save |= self._by_time if finished else wanted

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Raises:
        EvaluationStopped: it could last longer than there is time.
        """
        stop = self._trainer.stop_poll(self._stop() if state.is_world_process_zero else 0)
        if stop:
            self.stopped = control.should_training_stop = True
            control.should_save = stop == STOP_AND_SAVE
            control.should_evaluate = False  # else the end of the epoch would begin it again
            raise EvaluationStopped

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, float], **_: Any
    ) -> None:
        """Every rank has the same *metrics*, gathered from all."""
        losses = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
        is_best = metrics["eval_loss"] <= min(losses)
        if self._by_time and is_best and 0 < state.global_step < state.max_steps:
            control.should_save = True

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Raises:
        Diverged: by the last step, or since so few steps that a longer training would still wait.
        """
        self._trainer.agreement.hear()
        if not self.stopped:
            self._trainer.health.end()

    def _asked(self) -> Agreed:
        pace = self._trainer.pace
        pace.stepped()
        waiting = len(list(self._trainer.run_dir.outbox.glob("step-*")))
        return Agreed(self._stop(), save=self._by_time and pace.due(self._upload_s, waiting))

    def _stop(self) -> int:
        path = self._trainer.run_dir.stop
        return self._trainer.pace.stop(read_record(path, StopNotice), self._upload_s) if path.exists() else 0

    @property
    def _upload_s(self) -> float:
        path = self._trainer.run_dir.pushed
        return read_record(path, Pushed).upload_s if path.exists() else 0.0


class CompleteHistory(TrainerCallback):  # type: ignore[misc]
    """Logs the loss before every checkpoint, also one that an evaluation may bring, and at the end: what was not logged
    by then, no later run knows of."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if control.should_save or control.should_evaluate or control.should_training_stop:
            control.should_log = True


class WatchHealth(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Judges the gradient norms that are logged and the steps that are skipped, the same on every rank. Health stands
    in the checkpoints."""

    def __init__(self, trainer: AdapterTrainer) -> None:
        self._trainer = trainer

    def state(self) -> dict[str, Any]:
        """What the Trainer writes to ``trainer_state.json``."""
        return {"args": {}, "attributes": self._trainer.health.state()}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._trainer.health.step(state.global_step, self._skipped)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float], **_: Any
    ) -> None:
        if "grad_norm" in logs:
            self._trainer.health.grad_norm(state.global_step, logs["grad_norm"], logs["learning_rate"], self._skipped)

    @property
    def _skipped(self) -> bool:
        return bool(self._trainer.accelerator.optimizer_step_was_skipped)


class Beat(TrainerCallback):  # type: ignore[misc]
    """Moves the time of the file that shows that this rank lives, at whatever it has got done."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def touch(self, *_: Any, **__: Any) -> None:
        os.utime(self._path)

    on_train_begin = on_substep_end = on_step_end = on_prediction_step = on_evaluate = on_save = on_train_end = touch
