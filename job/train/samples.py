"""Answers to a few held-out prompts at every evaluation, to watch a model learn."""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from job.evaluate.generate import generate
from job.events import EventLog
from job.records import HELD_OUT, HeldOut, SampleAnswer
from job.rundir import read_record
from job.spec import JobSpec
from job.train.trainer import AdapterTrainer


class Samples(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Rank 0, which has the whole model, answers while the others wait; nothing of it is left in the random numbers of
    training. The answers stand in the checkpoints, so a run that goes on elsewhere has those from before."""

    def __init__(self, trainer: AdapterTrainer, spec: JobSpec, log: EventLog) -> None:
        self._trainer, self._log = trainer, log
        self._max_new_tokens = spec.eval_max_new_tokens
        self._rows = read_record(trainer.task.data_path / HELD_OUT, HeldOut).rows[: spec.eval_samples]
        self.answers: list[SampleAnswer] = []

    def state(self) -> dict[str, Any]:
        """What the Trainer writes to ``trainer_state.json``."""
        return {"args": {}, "attributes": {"answers": [answer.model_dump() for answer in self.answers]}}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if checkpoint := self._trainer.task.resume_from:
            self._recall(checkpoint)

    def _recall(self, checkpoint: Path) -> None:
        known = TrainerState.load_from_json(str(checkpoint / "trainer_state.json")).stateful_callbacks
        before = known.get("Samples", {"attributes": {"answers": []}})["attributes"]["answers"]  # none were asked for
        self.answers = [SampleAnswer.model_validate(answer) for answer in before]

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_world_process_zero or any(answer.step == state.global_step for answer in self.answers):
            return
        trainer, device = self._trainer, args.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            texts = generate(
                trainer.adapted_model,
                trainer.processing_class,
                [row.input_ids for row in self._rows],
                self._max_new_tokens,
            )
        for row, text in zip(self._rows, texts, strict=True):
            answer = SampleAnswer(step=state.global_step, prompt=row.prompt, answer=text)
            self.answers.append(answer)
            self._log.write("sample", **answer.model_dump())
