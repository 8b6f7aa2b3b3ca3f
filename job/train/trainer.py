"""What any of TRL's trainers needs besides for an adapter, under every strategy."""

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, TrainerState

from job.checkpoints import is_complete
from job.compatibility import adapter_dtypes
from job.errors import Bug
from job.events import EventLog
from job.records import SPREAD, Layout, Plan, TrainTask
from job.rundir import RunDir, flush_files
from job.train.agreement import Agreed, Agreement, EvaluationStopped, StopPoll
from job.train.checkpoint import full_disk_told, seal
from job.train.fsdp import gather_head, leave_outputs_unrounded
from job.train.health import Health
from job.train.model import DTYPES, hold_adapter_in
from job.train.proof import TOKEN_ROWS
from job.train.save import (
    check_finite,
    each_whole,
    for_the_untouched_base,
    has_taken_from_base,
    save_adapter,
    save_whole_model,
)
from job.train.save_pace import SavePace
from job.train.vocabulary import show_bias
from job.train.whole_rounds import fill_rounds, with_filler

TOLD = {"step", "save_s", "eval_loss"}  # of a checkpoint, in the log


class AdapterTrainer(Trainer):  # type: ignore[misc]
    """Holds the adapter in the plan's dtype, and saves it whole; tells all ranks of each step's loss. The trainer of a
    method is this before TRL's: ``class SftTrainer(AdapterTrainer, SFTTrainer)``."""

    best_by, more_is_better = "eval_loss", False  # what tells which of two evaluations is better
    # Whether the rows that are left at the end of an epoch are trained too.
    fills_rounds = True

    def __init__(
        self, plan: Plan, task: TrainTask, run_dir: RunDir, *, train_dataset: Dataset, **settings: Any
    ) -> None:
        self._rows = len(train_dataset)
        uneven = plan.num_processes > 1 and self._rows % plan.rows_at_a_time > 0
        self._needs_filler = uneven and self.fills_rounds
        super().__init__(train_dataset=with_filler(train_dataset) if self._needs_filler else train_dataset, **settings)
        self.plan, self.task, self.run_dir = plan, task, run_dir
        self.health, self.pace = self.make_health(), SavePace(heard_later=self.args.world_size > 1)
        self.agreement = Agreement(self.args.device, self.args.world_size, self.health)
        self.stop_poll = StopPoll(self.args.device, self.args.world_size)
        # Writes the best adapter so far into a checkpoint, and returns its step.
        self.write_best: Callable[[Path], int | None] = lambda _: None
        self.owes_checkpoint = False  # one was due when the loss lay outside its band
        self._step_loss = torch.zeros((), device=self.args.device)
        self._check_strategy()
        self.times_before: Mapping[str, float] = {}
        self.tokens_before = 0
        self.resumed_at_step = self._recall(task.resume_from) if task.resume_from else 0
        show_bias(self.model)
        hold_adapter_in(self.model, DTYPES[plan.adapter_dtype])
        if plan.strategy == "fsdp":
            leave_outputs_unrounded(self.accelerator, plan)
            gather_head(self.model)

    def trial_loss(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """A loss of the collator's *inputs* with every token trained. TRL's own gathers metrics, which would wait for a
        rank that has run out of memory."""
        outputs = self.model_wrapped(**inputs, use_cache=False, fused_lm_head=True)
        loss: torch.Tensor = -outputs.log_probs.sum()
        return loss

    def trial_batch(self) -> dict[str, torch.Tensor] | None:
        """The longest inputs that can come up, where the rows do not hold them; None: they do."""
        return None

    def make_health(self) -> Health:
        """What judges each step's loss."""
        return Health()

    def _check_strategy(self) -> None:
        """Raises:
        Bug: upstream would run the plan in another way, or hold the adapter in another dtype, and say nothing.
        """
        plan, wrapped = self.plan, (self.is_fsdp_enabled, self.is_deepspeed_enabled)
        if wrapped != (plan.strategy == "fsdp", plan.strategy in ("zero2", "zero3")):
            kind = self.accelerator.distributed_type.value
            raise Bug(f"The plan says {plan.strategy}, but accelerate runs {kind} here.", "Set JOB_STRATEGY=ddp.")
        if plan.adapter_dtype not in adapter_dtypes(plan.strategy, plan.quantization, plan.precision):
            base = f"a {plan.precision} base with quantization {plan.quantization} under {plan.strategy}"
            raise Bug(f"An adapter cannot be held in {plan.adapter_dtype} over {base}.", "Set JOB_QUANTIZATION=none.")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """PEFT brings adapters of 16 bits back in float32, and the run would go on with other numbers."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        hold_adapter_in(self.model, DTYPES[self.plan.adapter_dtype])

    def _recall(self, checkpoint: Path) -> int:
        """Count tokens and times on from *checkpoint*, as upstream counts steps, and know what loss is ordinary; its
        step.

        Raises:
            Bug: it is not complete. Upstream would start the optimizer afresh and say nothing.
        """
        if not is_complete(checkpoint, self.plan):
            raise Bug(f"The checkpoint {checkpoint} lacks files that {self.plan.strategy} needs.", "Remove it.")
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        counts = [entry["num_tokens"] for entry in state.log_history if "num_tokens" in entry]
        self.tokens_before = self._total_train_tokens = int(counts[-1]) if counts else 0
        self.times_before = state.stateful_callbacks["Progress"]["attributes"]
        self.health.recall(state.stateful_callbacks["WatchHealth"]["attributes"])
        return int(state.global_step)

    @property
    def adapted_model(self) -> PeftModel:
        """The model without what a strategy wraps around it; a plain one where all weights are trained."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def trains_all_weights(self) -> bool:
        """Whether there is no adapter."""
        return not isinstance(self.adapted_model, PeftModel)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Rows of new tokens are left out: weight decay pulls to zero, and they begin at a mean."""
        return [name for name in super().get_decay_parameter_names(model) if TOKEN_ROWS not in name]

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int]:
        """Upstream's, which never draws the filler."""
        rows = (train_dataset or self.train_dataset).select(range(self._rows))
        sampler: Sampler[int] = super()._get_train_sampler(rows)
        return sampler

    def get_train_dataloader(self) -> DataLoader[Any]:
        loader: DataLoader[Any] = super().get_train_dataloader()
        if self._needs_filler:
            fill_rounds(loader, self.args.world_size, filler=self._rows)
        return loader

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Resumed after the last step, or stopped in the evaluation before the first, upstream would train one more."""
        if self.control.should_training_stop or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Also adds the micro-batch's loss to that of the step, where it is: to look at it would make the host wait."""
        self._step_rate = float(self._get_learning_rate())  # after the step it is the next one's
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self._step_loss += loss
        return loss

    def exchange(self, asked: Agreed) -> Agreed:
        """Let all ranks know what rank 0 asks for at the end of this step, and its loss; returns what is to be done.

        Raises:
            Diverged: by the loss of the step before.
        """
        loss, self._step_loss = self._step_loss, torch.zeros_like(self._step_loss)
        return self.agreement.exchange(self.state.global_step, asked, loss, self._step_rate)

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        """Upstream's. A schedule that goes by evaluations hears of each once: of one that a stop has put off when it is
        made up for, and of none that was broken off."""
        metrics: dict[str, float] = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler=True)
        if isinstance(self.lr_scheduler, ReduceLROnPlateau) and metrics and self.state.global_step:
            self.lr_scheduler.step(metrics["eval_loss"])
        return metrics

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Upstream's, without a trace in the random numbers of training: an evaluation that a stop has put off comes
        later. One that is broken off by a stop has no metrics."""
        self.stop_poll = StopPoll(self.args.device, self.args.world_size)
        if self.is_world_process_zero():
            EventLog(self.run_dir.log).write("evaluation_begin", step=self.state.global_step)
        metrics: dict[str, float] = {}
        device = self.args.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            try:
                metrics = super().evaluate(*args, **kwargs)
            except EvaluationStopped:
                self._metrics["eval"].clear()  # of the batches that were seen
                self.model.train()  # by which upstream tells what a log is about
        return metrics

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: the job writes its own."""

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Upstream's, and sealed when all ranks have written their part. What may be the beginning of a divergence is
        not saved: it must not take the place of a good checkpoint. It is made up for when the loss is back.

        Raises:
            Diverged: at this very step; nothing is written.
            UnsuitableHost: it does not fit on the disk.
        """
        began, step = time.monotonic(), self.state.global_step
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{step}"
        self.agreement.hear()
        self.owes_checkpoint = self.health.uneasy
        if self.owes_checkpoint:
            return
        self._clear(checkpoint)
        with full_disk_told(checkpoint):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            best_step = None
            if self.args.should_save:
                best_step = self.write_best(checkpoint)
                flush_files(checkpoint)
            save_s = time.monotonic() - began
            self.pace.saved(save_s)
            if self.args.should_save:
                layout = self._layout(save_s, best_step)
                seal(checkpoint, layout, self.run_dir.outgoing(step))
                seal_s = round(time.monotonic() - began - save_s, 4)
                EventLog(self.run_dir.log).write("checkpoint", **layout.model_dump(include=TOLD), seal_s=seal_s)

    def _clear(self, checkpoint: Path) -> None:
        """Nothing of an earlier attempt at this step may stand among the new files, which ranks begin to write at
        different times."""
        if self.args.should_save:
            shutil.rmtree(checkpoint, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _layout(self, save_s: float, best_step: int | None) -> Layout:
        plan, step = self.plan, self.state.global_step
        losses = [entry["eval_loss"] for entry in self.state.log_history if _evaluated_at(entry, step)]
        return Layout(
            step=step,
            strategy=plan.strategy,
            num_processes=plan.num_processes,
            precision=plan.precision,
            adapter_dtype=plan.adapter_dtype,
            quantization=plan.quantization,
            eval_loss=losses[-1] if losses else None,
            best_step=best_step,
            full=self.trains_all_weights,
            save_s=save_s,
        )

    @property
    def evaluated_now(self) -> bool:
        """Whether the adapter has been evaluated as it is."""
        return any(_evaluated_at(entry, self.state.global_step) for entry in self.state.log_history)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """What is trained alone, also into checkpoints; every rank must call it. Upstream gathers the whole base model
        to the first rank's memory under FSDP, and leaves ``training_args.bin`` behind, which can hold credentials.

        Raises:
            Diverged: a value is not finite; nothing is written.
        """
        model, folder = self.adapted_model, Path(output_dir or self.args.output_dir)
        if _internal_call and self.trains_all_weights and self.plan.strategy in SPREAD:
            return  # the checkpoint has them in files of FSDP's or DeepSpeed's own
        tensors = {}
        for name, tensor in each_whole(model):
            check_finite({name: tensor})
            if self.args.should_save:
                tensors[name] = tensor
        if self.args.should_save and self.trains_all_weights:
            dtype = None if _internal_call else DTYPES[self.plan.precision]
            save_whole_model(model, tensors, self.processing_class, folder, dtype)
        elif self.args.should_save:
            save_adapter(model, tensors, self.processing_class, self.task, folder)

    def save_result(self, initial: Mapping[str, torch.Tensor]) -> None:
        """The adapter as it is published, for the base as everybody has it; *initial* is what it began as."""
        self.save_model(str(self.run_dir.adapter))
        if self.args.should_save and has_taken_from_base(self.adapted_model):
            for_the_untouched_base(self.run_dir.adapter, initial)


def _evaluated_at(entry: dict[str, Any], step: int) -> bool:
    return "eval_loss" in entry and entry["step"] == step
