"""Supervised fine-tuning with TRL's SFTTrainer on rows that were tokenized, masked and packed before."""

import importlib.metadata
from collections.abc import Callable, Iterable

import torch
import transformers
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer
from trl import SFTConfig

from job.events import EventLog
from job.records import AdapterProof, AddedTokens, LogEntry, Plan, TrainResult, TrainTask
from job.rundir import RunDir, read_record, write_json
from job.spec import JobSpec
from job.train.callbacks import Beat, CompleteHistory, Obey, Progress, WatchHealth
from job.train.checkpoint import full_disk_told
from job.train.fit import FitsMemory
from job.train.model import load_base
from job.train.proof import AdapterWatch
from job.train.settings import config_settings
from job.train.targets import target_modules
from job.train.trainer import AdapterTrainer
from job.train.vocabulary import add_tokens, trainable_token_indices

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes")


def train(run_dir: RunDir, rank: int) -> None:
    """Train the adapter that spec.json, plan.json and train_task.json ask for; rank 0 writes it and the result.

    Raises:
        AdapterRejected: nothing was trainable, or the adapter did not change.
        Diverged: the loss is NaN or infinite, or has left its band for good.
        torch.OutOfMemoryError: GPU memory ran out.
    """
    spec = read_record(run_dir.spec, JobSpec)
    plan = read_record(run_dir.plan, Plan)
    task = read_record(run_dir.train_task, TrainTask)
    transformers.logging.set_verbosity_warning()
    transformers.utils.logging.disable_progress_bar()

    beat = Beat(run_dir.beat(rank))
    trainer, added = make_trainer(spec, plan, task, run_dir, beat.touch)
    progress = Progress(EventLog(run_dir.log), trainer.times_before, trainer.tokens_before)
    obey = Obey(trainer, by_time=spec.save_steps == "auto")
    for callback in (beat, progress, obey, CompleteHistory(), WatchHealth(trainer)):
        trainer.add_callback(callback)
    if plan.use_gpu:
        trainer.add_callback(FitsMemory(trainer, EventLog(run_dir.log)))
    watch = AdapterWatch(trainer.adapted_model)
    beat.touch()
    trainer.train(resume_from_checkpoint=str(task.resume_from) if task.resume_from else None)
    if task.has_eval and not obey.stopped and not trainer.evaluated_now:
        trainer.evaluate()
        if trainer.control.should_save:  # a stop has broken it off
            trainer._save_checkpoint(trainer.model, None)
    proof = _proof(watch, trainer, obey.stopped)
    if proof:
        with full_disk_told(run_dir.adapter):
            trainer.save_model(str(run_dir.adapter))
    beat.touch()

    if trainer.is_world_process_zero():
        write_json(run_dir.train_result, _result(trainer, progress, obey.stopped, proof, added))
    # A rank that ends takes the others with it if it ends badly: not before the result is written.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


def make_trainer(
    spec: JobSpec, plan: Plan, task: TrainTask, run_dir: RunDir, alive: Callable[[], None]
) -> tuple[AdapterTrainer, AddedTokens]:
    """The trainer, on the base model at ``task.model_path`` with a fresh LoRA adapter, and the tokens new with it.
    *alive* is called after whatever takes long."""
    alive()
    train_rows = Dataset.from_file(str(task.data_path / "train.arrow"))
    eval_rows = Dataset.from_file(str(task.data_path / "eval.arrow")) if task.has_eval else None
    # First, as the model is loaded differently under ZeRO-3, and on the device that is chosen here.
    args = SFTConfig(**config_settings(spec, plan, task, run_dir, len(train_rows)))
    model, tokenizer = load_base(plan, task, args.device), AutoTokenizer.from_pretrained(task.model_path)
    alive()
    added = add_tokens(model, tokenizer, task.chat_template)
    trainer = AdapterTrainer(
        plan,
        task,
        run_dir,
        model=model,
        args=args,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        processing_class=tokenizer,
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=spec.lora_r,
            lora_alpha=spec.lora_alpha,
            lora_dropout=spec.lora_dropout,
            target_modules=target_modules(model, spec.target_modules),
            bias="none",
            trainable_token_indices=trainable_token_indices(model, added, spec.target_modules, plan.strategy),
        ),
    )
    alive()
    return trainer, added


def _proof(watch: AdapterWatch, trainer: AdapterTrainer, stopped: bool) -> AdapterProof | None:
    """None: of a stopped training that has not learned yet, or may be diverging, nothing is to be published.

    Raises:
        AdapterRejected, Diverged: as `AdapterWatch` says.
    """
    if not stopped:
        return watch.prove()
    return None if trainer.health.uneasy else watch.proof_if_learned()


def _result(
    trainer: AdapterTrainer, progress: Progress, stopped: bool, proof: AdapterProof | None, added: AddedTokens
) -> TrainResult:
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
