"""The adapter as it was when it evaluated best, and the end of a training that gets no better."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from job.checkpoints import BEST, step_of
from job.spec import JobSpec
from job.train.save import whole_adapter
from job.train.trainer import AdapterTrainer

Tensors = dict[str, torch.Tensor]


class Best(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Holds a copy of the best adapter, whole and on the CPU, on every rank, and ends training after so many
    evaluations without a better one. What it knows stands in the checkpoints, so a resumed run goes on with it.

    The Trainer's own ``load_best_model_at_end`` and early stopping want an evaluation with every checkpoint and the
    best checkpoint on this very machine; here checkpoints come by the clock, and a run goes on elsewhere.
    """

    def __init__(self, trainer: AdapterTrainer, spec: JobSpec) -> None:
        self._trainer, self._loads = trainer, spec.load_best_model_at_end
        self._patience, self._threshold = spec.early_stopping_patience, spec.early_stopping_threshold
        self.step: int | None = None  # of the best evaluation
        self.loaded_step: int | None = None  # of the adapter that `load` has given the model
        self.stopped_early = False
        self._value = 0.0  # what it was judged by
        self._worse = 0  # evaluations since then, in a row
        self._tensors: Tensors = {}

    def state(self) -> dict[str, Any]:
        """What the Trainer writes to ``trainer_state.json``."""
        return {"args": {}, "attributes": {"step": self.step, "value": self._value, "worse": self._worse}}

    def recall(self, checkpoint: Path) -> None:
        """Go on with what stood in *checkpoint*, which the model has been loaded from."""
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        known = state.stateful_callbacks["Best"]["attributes"]
        self.step, self._value, self._worse = known["step"], known["value"], known["worse"]
        if self._loads and self.step == step_of(checkpoint):
            self._tensors = whole_adapter(self._trainer.adapted_model)
        elif self._loads and self.step is not None:
            self._tensors = load_file(checkpoint / BEST)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if resumed_from := self._trainer.task.resume_from:
            self.recall(resumed_from)
        self._end_if_patience_is_over(control)
        control.should_save = False  # it stands in the checkpoint

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, float], **_: Any
    ) -> None:
        """Every rank has the same *metrics*. An untrained adapter is no candidate: it has nothing to publish."""
        if state.global_step == 0:
            return
        value = metrics[self._trainer.best_by] * (1 if self._trainer.more_is_better else -1)
        if self.step is None or value > self._value + self._threshold:
            self.step, self._value, self._worse = state.global_step, value, 0
            self._tensors = whole_adapter(self._trainer.adapted_model) if self._loads else {}
        else:
            self._worse += 1
        self._end_if_patience_is_over(control)

    def _end_if_patience_is_over(self, control: TrainerControl) -> None:
        if self._patience and self._worse >= self._patience:
            self.stopped_early = control.should_training_stop = control.should_save = True

    def write(self, checkpoint: Path) -> int | None:
        """Keep the best with *checkpoint*, unless it is the checkpoint's own; returns the step of the best."""
        if self._tensors and self.step != step_of(checkpoint):
            save_file({name: tensor.contiguous() for name, tensor in self._tensors.items()}, checkpoint / BEST)
        return self.step if self._tensors else None

    def load(self) -> None:
        """Give the model the best adapter, if another one is in it. Every rank must call it."""
        if self._tensors and self.step != self._trainer.state.global_step:
            put_adapter(self._trainer.adapted_model, self._tensors)
            self.loaded_step = self.step


@torch.no_grad()
def put_adapter(model: nn.Module, tensors: Tensors) -> None:
    """Give the trainable parameters of *model* the values of *tensors*, which `whole_adapter` has taken from it. Every
    rank must call it, as each may hold only a part."""
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if any(hasattr(parameter, "ds_id") for parameter in trainable.values()):
        _put_under_zero3(trainable, tensors)
        return
    for name, parameter in trainable.items():
        value = tensors[name].to(parameter.device, parameter.dtype)
        if isinstance(parameter, DTensor):
            value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
        parameter.copy_(value)


def _put_under_zero3(trainable: dict[str, nn.Parameter], tensors: Tensors) -> None:
    import deepspeed  # seconds, which only its runs should pay for

    with deepspeed.zero.GatheredParameters(list(trainable.values()), modifier_rank=0):
        for name, parameter in trainable.items():
            parameter.copy_(tensors[name].to(parameter.device, parameter.dtype))
