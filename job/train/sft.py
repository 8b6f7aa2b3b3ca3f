"""Supervised fine-tuning with TRL's SFTTrainer on rows that were tokenized, masked and packed before."""

import importlib.metadata
from typing import Any

import torch
import transformers
from datasets import Dataset
from peft import LoraConfig
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from trl import SFTConfig, SFTTrainer

from job.events import EventLog
from job.records import AddedTokens, LogEntry, Plan, Precision, TrainResult, TrainTask
from job.rundir import RunDir, read_record, write_json
from job.spec import JobSpec
from job.train.callbacks import FiniteLoss, Progress, StopFile
from job.train.proof import TOKEN_ROWS, AdapterWatch
from job.train.save import save_adapter
from job.train.vocabulary import add_tokens, show_bias, trainable_token_indices

DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# Evaluations over a run when the user names no interval: at least this many, and one per epoch.
MIN_EVALUATIONS = 5
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes")


def train(run_dir: RunDir) -> None:
    """Train the adapter that spec.json, plan.json and train_task.json ask for; rank 0 writes it and the result.

    Raises:
        AdapterRejected: nothing was trainable, or the adapter did not change.
        FloatingPointError: the loss is NaN or infinite.
        torch.OutOfMemoryError: GPU memory ran out.
    """
    spec = read_record(run_dir.spec, JobSpec)
    plan = read_record(run_dir.plan, Plan)
    task = read_record(run_dir.train_task, TrainTask)
    transformers.logging.set_verbosity_warning()
    transformers.utils.logging.disable_progress_bar()

    trainer, added = make_trainer(spec, plan, task, run_dir)
    progress, stop = Progress(EventLog(run_dir.log)), StopFile(run_dir.stop)
    for callback in (progress, stop, FiniteLoss()):
        trainer.add_callback(callback)
    watch = AdapterWatch(trainer.accelerator.unwrap_model(trainer.model))
    output = trainer.train()
    final_eval = task.has_eval and not stop.stopped and not _evaluated_now(trainer)
    if final_eval:
        trainer.evaluate()
    proof = None if stop.stopped else watch.prove()

    if trainer.is_world_process_zero():
        if not stop.stopped:
            save_adapter(trainer, task, run_dir.adapter)
        write_json(
            run_dir.train_result,
            TrainResult(
                status="stopped" if stop.stopped else "finished",
                steps=trainer.state.global_step,
                total_steps=trainer.state.max_steps,
                epoch=trainer.state.epoch or 0.0,
                train_runtime_s=output.metrics["train_runtime"],
                after_first_step_s=progress.last_step_at - progress.first_step_at - progress.eval_s,
                tokens=progress.tokens,
                train_loss=output.training_loss,
                history=_entries(trainer, "loss"),
                eval_history=_entries(trainer, "eval_loss"),
                adapter=proof,
                added_tokens=added,
                peak_gpu_memory_gib=_peak_gpu_memory_gib(plan),
                versions={name: importlib.metadata.version(name) for name in PACKAGES},
            ),
        )
    # A rank that ends takes the others with it if it ends badly: not before the result is written.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


class AdapterTrainer(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer, without weight decay on rows of new tokens: it pulls to zero, and they begin at a mean."""

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return [name for name in super().get_decay_parameter_names(model) if TOKEN_ROWS not in name]


def make_trainer(spec: JobSpec, plan: Plan, task: TrainTask, run_dir: RunDir) -> tuple[AdapterTrainer, AddedTokens]:
    """The trainer, on the base model at ``task.model_path`` with a fresh LoRA adapter, and the tokens new with it."""
    train_rows = Dataset.from_file(str(task.data_path / "train.arrow"))
    eval_rows = Dataset.from_file(str(task.data_path / "eval.arrow")) if task.has_eval else None
    model, tokenizer = _load_base(plan, task), AutoTokenizer.from_pretrained(task.model_path)
    added = add_tokens(model, tokenizer, task.chat_template)
    trainer = AdapterTrainer(
        model=model,
        args=SFTConfig(**config_settings(spec, plan, task, run_dir, len(train_rows))),
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        processing_class=tokenizer,
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=spec.lora_r,
            lora_alpha=spec.lora_alpha,
            lora_dropout=spec.lora_dropout,
            target_modules="all-linear" if spec.target_modules == ("all-linear",) else list(spec.target_modules),
            bias="none",
            trainable_token_indices=trainable_token_indices(model, added, spec.target_modules),
        ),
    )
    show_bias(trainer.model)
    return trainer, added


def _load_base(plan: Plan, task: TrainTask) -> PreTrainedModel:
    # No device_map: "auto" would split the model over the GPUs of a node instead of running DDP.
    model = AutoModelForCausalLM.from_pretrained(task.model_path, dtype=DTYPES[plan.precision], use_safetensors=True)
    model.config.use_cache = False
    return model


def config_settings(spec: JobSpec, plan: Plan, task: TrainTask, run_dir: RunDir, sequences: int) -> dict[str, Any]:
    """The arguments of SFTConfig, for a dataset of *sequences* rows or packs."""
    settings: dict[str, Any] = {
        "output_dir": str(run_dir.checkpoints),
        "num_train_epochs": spec.num_train_epochs,
        "max_steps": spec.max_steps or -1,
        "learning_rate": spec.learning_rate,
        "lr_scheduler_type": spec.lr_scheduler_type,
        "warmup_steps": spec.warmup_steps,
        "weight_decay": spec.weight_decay,
        "max_grad_norm": spec.max_grad_norm,
        "optim": spec.optim,
        "seed": spec.seed,
        "per_device_train_batch_size": plan.per_device_train_batch_size,
        "per_device_eval_batch_size": plan.per_device_train_batch_size,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        "gradient_checkpointing": plan.gradient_checkpointing,
        "bf16": plan.precision == "bf16",
        "fp16": plan.precision == "fp16",
        "use_cpu": not plan.use_gpu,
        "dataloader_pin_memory": plan.use_gpu,
        "max_length": plan.max_length,
        # Packing makes the collator padding-free; the rows themselves are packed already.
        "packing": plan.packing,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "logging_steps": spec.logging_steps,
        "logging_first_step": True,
        # The filter would replace a NaN loss by the running mean in the log.
        "logging_nan_inf_filter": False,
        "ddp_find_unused_parameters": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    if task.has_eval:
        settings |= {"eval_strategy": "steps", "eval_on_start": True, "eval_steps": _eval_steps(spec, plan, sequences)}
    return settings | spec.trainer_args


def _eval_steps(spec: JobSpec, plan: Plan, sequences: int) -> int:
    steps_per_epoch = max(1, -(-sequences // plan.global_batch_size))
    total = spec.max_steps or int(steps_per_epoch * spec.num_train_epochs)
    return spec.eval_steps or max(1, min(steps_per_epoch, total // MIN_EVALUATIONS))


def _evaluated_now(trainer: SFTTrainer) -> bool:
    return any(
        "eval_loss" in entry and entry["step"] == trainer.state.global_step for entry in trainer.state.log_history
    )


def _entries(trainer: SFTTrainer, key: str) -> tuple[LogEntry, ...]:
    return tuple(
        LogEntry(step=entry["step"], values={k: float(v) for k, v in entry.items() if k != "step"})
        for entry in trainer.state.log_history
        if key in entry
    )


def _peak_gpu_memory_gib(plan: Plan) -> float | None:
    return round(torch.cuda.max_memory_allocated() / 2**30, 3) if plan.use_gpu else None
