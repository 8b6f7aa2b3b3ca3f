"""Pairs of a right and a wrong answer, prepared for a method, and what a bare TRL script makes of the same rows."""

import itertools
import json
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, set_seed
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer

from job.prepare.story import prepare
from job.records import DataFile, GateSettings, Plan, PrepareTask
from job.spec import JobSpec
from tests.tiny import GSM8K, write_model, write_rows
from tests.worker.strategies import GLOBAL_BATCH, STEPS, Inputs

ROWS = 90  # of which the last step of an epoch has two
LONG_AND_SHORT = 130  # of which a reward model learns from the short ones, as upstream's
SEED = 42
_BARE = {"dpo": (DPOTrainer, DPOConfig), "kto": (KTOTrainer, KTOConfig), "reward": (RewardTrainer, RewardConfig)}


def write_pairs(path: Path, count: int = ROWS) -> list[dict[str, Any]]:
    """Questions with the first line of the right answer and that of another question's: real ones where they are at
    hand, else sums. Of a whole answer the log-probability is about -800, and float32 rounds that to 6e-5, of which
    beta, 0.1, is left in the loss: more than by which losses are to be equal."""
    source = GSM8K if GSM8K.exists() else write_rows(path.with_suffix(".sums"), count + 1)
    known = [json.loads(line) for line in source.read_text().splitlines()[: count + 1]]
    rows = [
        {"prompt": row["question"] + "\n", "chosen": _first_line(row), "rejected": _first_line(other)}
        for row, other in itertools.pairwise(known)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def _first_line(row: dict[str, str]) -> str:
    return row["answer"].splitlines()[0]


def judged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every other answer of *rows*, as good or bad."""
    return [
        {"prompt": row["prompt"], "completion": row["chosen" if number % 2 else "rejected"], "label": bool(number % 2)}
        for number, row in enumerate(rows)
    ]


def make_preferences(folder: Path, method: str, model: Path | None = None) -> Inputs:
    """A tiny model and rows for *method*, a few more than its steps train."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rows.jsonl"
    rows = write_pairs(path, LONG_AND_SHORT if method == "reward" else ROWS)
    if method == "kto":
        path.write_text("".join(json.dumps(row) + "\n" for row in judged(rows)))
    model = model or write_model(folder / "model", path, vocab_size=1024)
    (folder / "data").mkdir()
    prepare(
        PrepareTask(
            method=method, train_files=(DataFile(path=path, name=path.name, identity=""),), tokenizer=model,
            tokenizer_identity="", columns={}, format=None, response_template=None, packing=False, max_length=256,
            eval_fraction=0.0, seed=1, gate=GateSettings(bad_rows="fail", max_bad_fraction=0.5, allow=()),
        ),
        folder / "data",
    )  # fmt: skip
    return Inputs(model, folder / "data")


def bare_losses(inputs: Inputs, plan: Plan, settings: dict[str, Any], folder: Path) -> list[float]:
    """The losses of TRL's own trainer, on rows that it tokenizes itself."""
    spec = JobSpec(model="org/m", **settings)
    trainer_class, config = _BARE[spec.method]
    args = config(
        output_dir=str(folder), use_cpu=True, bf16=False, max_length=256, seed=SEED, max_steps=STEPS,
        per_device_train_batch_size=2, gradient_accumulation_steps=GLOBAL_BATCH // 2, logging_steps=1,
        learning_rate=settings["learning_rate"], lr_scheduler_type="linear", warmup_steps=0, report_to="none",
        weight_decay=spec.weight_decay, gradient_checkpointing=False, save_strategy="no", disable_tqdm=True,
        logging_nan_inf_filter=False, optim=plan.optim,
    )  # fmt: skip
    rows = Dataset.from_list(list(map(json.loads, (inputs.data.parent / "rows.jsonl").read_text().splitlines())))
    if spec.method == "reward":
        set_seed(SEED)
        model = AutoModelForSequenceClassification.from_pretrained(inputs.model, num_labels=1, dtype="float32")
    else:
        model = AutoModelForCausalLM.from_pretrained(inputs.model, dtype="float32")
    trainer = trainer_class(
        model=model, args=args, train_dataset=rows, processing_class=AutoTokenizer.from_pretrained(inputs.model),
        peft_config=LoraConfig(
            task_type="SEQ_CLS" if spec.method == "reward" else "CAUSAL_LM", r=spec.lora_r, lora_alpha=spec.lora_alpha,
            lora_dropout=0.0, target_modules="all-linear",
        ),
    )  # fmt: skip
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
