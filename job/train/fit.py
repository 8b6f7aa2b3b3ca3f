"""Before the first step: does the longest batch fit? Nobody should learn at step 164 of a row that is too long."""

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
import torch.distributed as dist
from datasets import Dataset
from numpy.typing import NDArray
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from job.events import EventLog
from job.train.trainer import AdapterTrainer

# Tensors as large as the adapter that come with the first optimizer step: AdamW's two moments.
LATER = 2


class FitsMemory(TrainerCallback):  # type: ignore[misc]
    """Takes the longest batch forward and backward on every rank when training begins, and leaves no trace of it.

    Not under DeepSpeed, whose engine steps the optimizer in its backward pass: there the first real step finds out.
    """

    def __init__(self, trainer: AdapterTrainer, log: EventLog) -> None:
        self._trainer, self._log = trainer, log

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Raises:
        torch.OutOfMemoryError: it does not fit here, or on another rank.
        """
        strategy = self._trainer.plan.strategy
        if strategy in ("zero2", "zero3"):
            return
        with _untouched(self._trainer.model_wrapped, args.device):
            error = self._out_of_memory()
        if error and strategy == "fsdp":
            raise error  # others may wait for this rank in a collective: it must end, and its launcher ends them
        if _anywhere(error is not None, args):
            raise error or torch.OutOfMemoryError("the longest batch does not fit on another GPU")
        if state.is_world_process_zero and args.device.type == "cuda":
            self._log.write("longest_batch", peak_gib=round(torch.cuda.max_memory_allocated() / 2**30, 3))

    def _out_of_memory(self) -> torch.OutOfMemoryError | None:
        trainer, model = self._trainer, self._trainer.model_wrapped
        try:
            has_states = bool(trainer.optimizer.state)  # a checkpoint has brought them
            trained = [] if has_states else [p for p in model.parameters() if p.requires_grad]
            ballast = [torch.empty_like(parameter) for parameter in trained for _ in range(LATER)]
            model.train()
            drawn = trainer.trial_batch()
            inputs = trainer._prepare_inputs(longest_batch(trainer)) if drawn is None else drawn
            with self._apart(model), trainer.compute_loss_context_manager():
                trainer.accelerator.backward(trainer.trial_loss(inputs))
            del ballast
        except torch.OutOfMemoryError as error:
            return error.with_traceback(None)  # its frames hold what is to be freed
        return None

    def _apart(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Without DDP's all-reduce. FSDP goes with its own: gradients that it is told to keep to itself stay where
        zero_grad does not reach, and would be added to those of the first step."""
        is_ddp = self._trainer.plan.strategy == "ddp"
        return self._trainer.accelerator.no_sync(model) if is_ddp else nullcontext()


def longest_batch(trainer: AdapterTrainer) -> dict[str, torch.Tensor]:
    """The longest rows or packs there are, one micro-batch of them, with every token trained."""
    rows, size = trainer.train_dataset, trainer.plan.per_device_train_batch_size
    longest = rows.select(np.argsort(-_lengths(rows), kind="stable")[:size])
    if "input_ids" not in rows.column_names:
        return dict(trainer.data_collator(list(longest)))
    batch = [row | {"labels": row["input_ids"]} for row in longest]
    if size > 1 and not trainer.plan.packing:
        # Rows of one length need no padding and so no mask, which would be too little memory for those that do.
        batch[-1] = {name: values[:-1] for name, values in batch[-1].items()}
    return dict(trainer.data_collator(batch))


def _lengths(rows: Dataset) -> NDArray[np.int64]:
    """Tokens of the longest sequence of each row."""
    found = {
        name: pc.list_value_length(rows.data.column(name)).to_numpy()
        for name in ("input_ids", "prompt_ids", "chosen_ids", "rejected_ids", "completion_ids")
        if name in rows.column_names
    }
    prompts = found.pop("prompt_ids", 0)
    lengths: NDArray[np.int64] = prompts + np.maximum.reduce(list(found.values()))
    return lengths


@contextmanager
def _untouched(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Random numbers go on, and gradients are gone, as if nothing had happened."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        yield
    finally:
        model.zero_grad(set_to_none=True)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu, device)
            torch.cuda.empty_cache()


def _anywhere(failed: bool, args: TrainingArguments) -> bool:
    """Whether any rank has *failed*."""
    flag = torch.tensor([int(failed)], device=args.device)
    if args.world_size > 1:
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())
