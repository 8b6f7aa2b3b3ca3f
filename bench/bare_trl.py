"""The script one writes by hand with TRL: JSONL in, LoRA adapter out. The measure that the job is held against.

accelerate launch --num_processes 1 bench/bare_trl.py --model org/name --dataset rows.jsonl --output out
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from peft import LoraConfig
from transformers import AutoTokenizer, PreTrainedTokenizerBase, TrainerCallback
from trl import SFTConfig, SFTTrainer, get_training_chat_template


class Clock(TrainerCallback):
    """Notes when each optimizer step ended, in seconds since the epoch."""

    def __init__(self) -> None:
        self.step_ends_s: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer after every optimizer step."""
        self.step_ends_s.append(time.time())

    def steps_per_s(self) -> float | None:
        """Speed without the first step, which pays for warm-up; None when there was only one."""
        if len(self.step_ends_s) < 2:
            return None
        return (len(self.step_ends_s) - 1) / (self.step_ends_s[-1] - self.step_ends_s[0])


def parse_args() -> argparse.Namespace:
    """Names and meanings are those of TRL and PEFT."""
    parser = argparse.ArgumentParser(description="LoRA fine-tuning with nothing but TRL.")
    add = parser.add_argument
    add("--model", required=True)
    add("--dataset", required=True, help="JSONL with `messages`, or with a prompt and a completion column")
    add("--output", required=True)
    add("--prompt-column", default="prompt")
    add("--completion-column", default="completion")
    add("--dtype", default="float32", help="of the base model's weights")
    add("--use-cpu", action="store_true")
    add("--bf16", action=argparse.BooleanOptionalAction, default=True, help="mixed precision")
    add("--max-length", type=int, default=1024)
    add("--packing", action=argparse.BooleanOptionalAction, default=False)
    add("--gradient-checkpointing", action=argparse.BooleanOptionalAction, default=True)
    add("--per-device-train-batch-size", type=int, default=8)
    add("--gradient-accumulation-steps", type=int, default=1)
    add("--num-train-epochs", type=float, default=3.0)
    add("--max-steps", type=int, default=-1)
    add("--learning-rate", type=float, default=2e-4)
    add("--lr-scheduler-type", default="linear")
    add("--warmup-steps", type=float, default=0, help="a share of all steps when below 1")
    add("--weight-decay", type=float, default=0.0)
    add("--lora-r", type=int, default=16)
    add("--lora-alpha", type=int, default=32)
    add("--lora-dropout", type=float, default=0.0)
    add("--seed", type=int, default=42)
    add("--logging-steps", type=int, default=10)
    add("--log-json", type=Path, help="where to write the log history and the times")
    return parser.parse_args()


def can_mask_assistant(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template marks the assistant's tokens, or is one that TRL knows how to mark."""
    try:
        get_training_chat_template(tokenizer)
    except ValueError:
        return False
    return True


def split_last_turn(row: dict[str, Any]) -> dict[str, Any]:
    """A chat as conversational prompt and completion; only the last turn is trained."""
    return {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}


def load_rows(args: argparse.Namespace) -> tuple[Dataset, bool]:
    """The rows in a form TRL knows, and whether they need `assistant_only_loss`."""
    rows = load_dataset("json", data_files=args.dataset, split="train")
    if "messages" in rows.column_names:
        if can_mask_assistant(AutoTokenizer.from_pretrained(args.model)):
            return rows, True
        return rows.map(split_last_turn, remove_columns=rows.column_names), False
    names = {args.prompt_column: "prompt", args.completion_column: "completion"}
    rows = rows.select_columns(list(names))
    return rows.rename_columns({old: new for old, new in names.items() if old != new}), False


def sft_config(args: argparse.Namespace, assistant_only_loss: bool) -> SFTConfig:
    """The arguments as TRL takes them."""
    return SFTConfig(
        output_dir=args.output,
        model_init_kwargs={"dtype": args.dtype},
        use_cpu=args.use_cpu,
        bf16=args.bf16,
        assistant_only_loss=assistant_only_loss,
        max_length=args.max_length,
        packing=args.packing,
        gradient_checkpointing=args.gradient_checkpointing,
        per_device_train_batch_size=args.per_device_train_batch_size,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        num_train_epochs=args.num_train_epochs,
        max_steps=args.max_steps,
        learning_rate=args.learning_rate,
        lr_scheduler_type=args.lr_scheduler_type,
        warmup_steps=args.warmup_steps,
        weight_decay=args.weight_decay,
        seed=args.seed,
        logging_steps=args.logging_steps,
        save_strategy="no",
    )


def main() -> None:
    """Load, train, save."""
    args = parse_args()
    rows, assistant_only_loss = load_rows(args)
    clock = Clock()
    trainer = SFTTrainer(
        model=args.model,
        args=sft_config(args, assistant_only_loss),
        train_dataset=rows,
        peft_config=LoraConfig(
            r=args.lora_r, lora_alpha=args.lora_alpha, lora_dropout=args.lora_dropout, target_modules="all-linear"
        ),
        callbacks=[clock],
    )
    trainer.train()
    trainer.save_model()
    if args.log_json and trainer.is_world_process_zero():
        times = {"first_step_end_s": clock.step_ends_s[0], "steps_per_s": clock.steps_per_s()}
        args.log_json.parent.mkdir(parents=True, exist_ok=True)
        args.log_json.write_text(json.dumps({**times, "log_history": trainer.state.log_history}, indent=2))


if __name__ == "__main__":
    main()
