"""RLOO and GRPO: the numbers of a bare TRL script, of a run that was never interrupted, and rewards that rise."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from job.events import EventLog
from job.prepare.story import prepare
from job.records import DataFile, GateSettings, Plan, PrepareTask, PromptSettings, TrainResult, TrainTask
from job.rundir import RunDir, read_record, write_json
from job.scores import SCORES, ScoreOptions
from job.spec import JobSpec
from job.train.fit import FitsMemory
from job.train.methods import make_trainer
from job.train.story import train
from tests.tiny import write_model, write_rows
from tests.worker.strategies import Inputs, make_run

METHODS = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}
STEPS = 6
LEARNING_STEPS, RESUMED_AT = 24, 16
# Of a random model nothing else is in reach: answers that begin with a digit.
PLAN = Plan(
    strategy="cpu", num_processes=1, precision="fp32", per_device_train_batch_size=4, gradient_accumulation_steps=2,
    global_batch_size=8, num_generations=4, packing=False, gradient_checkpointing=False, max_length=128, use_gpu=False,
    reasons={},
)  # fmt: skip
REWARD = {"rewards": {"regex": 1.0}, "reward_pattern": r"^\s*\d"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    path = write_model(folder / "model", write_rows(folder / "rows.jsonl", 20))
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():  # fresh weights are too small to prefer one token to another, whatever an adapter does
        model.get_output_embeddings().weight.mul_(10)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def data(model: Path) -> Path:
    return prepare_prompts(model, model.parent / "rows.jsonl", model.parent / "data")


def prepare_prompts(model: Path, rows: Path, out: Path) -> Path:
    """The questions of *rows* as prompts for *model*, in the new folder *out*."""
    out.mkdir()
    prompts = PromptSettings(scores=(), marker=None, max_completion_length=8)
    task = PrepareTask(
        method="grpo", train_files=(DataFile(path=rows, name=rows.name, identity=""),), tokenizer=model,
        tokenizer_identity="", columns={"prompt": "question", "completion": "answer"}, format=None,
        response_template=None, packing=False, max_length=128, eval_fraction=0.1, seed=1, prompts=prompts,
        gate=GateSettings(bad_rows="fail", max_bad_fraction=0.0, allow=()),
    )  # fmt: skip
    prepare(task, out)
    return out


def settings(method: str, **more: Any) -> dict[str, Any]:
    shared = {
        "method": method, "max_steps": STEPS, "learning_rate": 1e-2, "lr_scheduler_type": "linear", "warmup_steps": 0,
        "logging_steps": 1, "save_steps": 100, "num_generations": 4, "max_completion_length": 8,
        "global_batch_size": 8,
    }  # fmt: skip
    return shared | REWARD | more


def run(model: Path, data: Path, root: Path, method: str, *, resume_from: Path | None = None, **more: Any) -> RunDir:
    """The worker's whole story in this process, under ``single``."""
    given = settings(method, **more)
    spec = JobSpec(model="org/m", dataset_uri="org/d", **given)
    task = TrainTask(
        model_path=model, data_path=data, base_model_name="org/m", base_model_revision=None, has_eval=spec.evaluates,
        resume_from=resume_from,
    )  # fmt: skip
    batch = {"global_batch_size": spec.global_batch_size, "gradient_accumulation_steps": spec.global_batch_size // 4}
    plan = PLAN.model_copy(update=batch)
    files = RunDir(root)
    for path, record in ((files.spec, spec), (files.plan, plan), (files.train_task, task)):
        write_json(path, record)
    files.beat(0).parent.mkdir(parents=True, exist_ok=True)
    files.beat(0).touch()
    train(files, 0)
    return files


def history(files: RunDir) -> list[dict[str, float]]:
    return [entry.values | {"step": entry.step} for entry in read_record(files.train_result, TrainResult).history]


def bare(model: Path, data: Path, root: Path, method: str, *, full: bool = False) -> list[dict[str, float]]:
    """The script that one writes by hand: the same rows as text, the reward as a function. *full*: of all weights,
    without a reference."""
    trainer_type, config_type = METHODS[method]
    rows = Dataset.from_file(str(data / "train.arrow")).select_columns(["prompt"])

    def regex(completions: list[str], **_: Any) -> list[float]:
        options = ScoreOptions(pattern=REWARD["reward_pattern"])
        return [SCORES["regex"](answer, None, options) for answer in completions]

    trainer = trainer_type(
        model=str(model),
        reward_funcs=regex,
        args=config_type(
            output_dir=str(root), model_init_kwargs={"dtype": "float32"}, use_cpu=True, bf16=False,
            gradient_checkpointing=False, per_device_train_batch_size=4, gradient_accumulation_steps=2,
            num_generations=4, max_completion_length=8, max_steps=STEPS, learning_rate=1e-2,
            lr_scheduler_type="linear", weight_decay=0.01, max_grad_norm=1.0, logging_steps=1, seed=42,
            report_to="none", save_strategy="no", disable_tqdm=True, optim="adamw_torch_fused",
            **({"beta": 0.0} if full else {}),
        ),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=None if full else LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear"),
    )  # fmt: skip
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.slow
@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
@pytest.mark.parametrize("method", METHODS)
def test_losses_and_rewards_equal_a_bare_trl_script_at_every_step(model, data, tmp_path, method, full):
    ours = history(run(model, data, tmp_path / "job", method, **({"adapter": "full", "beta": 0.0} if full else {})))
    theirs = bare(model, data, tmp_path / "bare", method, full=full)

    assert len(ours) == len(theirs) == STEPS
    for name in ("loss", "grad_norm", "reward", "reward_std", "rewards/regex/mean", "completions/mean_length"):
        assert [entry[name] for entry in ours] == pytest.approx([entry[name] for entry in theirs], abs=1e-6), name
    assert any(entry["grad_norm"] > 0 for entry in ours), "no answer differed from another: nothing was compared"


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_reward_rises_and_a_run_resumed_in_a_later_epoch_is_bit_equal(model, data, tmp_path, method):
    more = {"max_steps": LEARNING_STEPS, "save_steps": RESUMED_AT, "eval_fraction": 0.1, "eval_steps": 8}
    more |= {"learning_rate": 1e-2, "global_batch_size": 32, "lr_scheduler_type": "constant"}
    whole = run(model, data, tmp_path / "whole", method, **more)
    checkpoint = tmp_path / f"checkpoint-{RESUMED_AT}"
    shutil.copytree(whole.checkpoints / checkpoint.name, checkpoint)
    again = run(model, data, tmp_path / "again", method, resume_from=checkpoint, **more)

    entries = history(whole)
    rewards = [entry["reward"] for entry in entries]
    # By the second step little is learned; GRPO has it all after a few more.
    assert sum(rewards[-8:]) / 8 > sum(rewards[:2]) / 2 + 0.2, list(rewards)
    assert entries[-1]["step"] / entries[-1]["epoch"] < RESUMED_AT, "it was resumed in the first epoch"
    clocks = {"step_time"}
    assert [dict(entry) | dict.fromkeys(clocks, 0) for entry in history(again)] == [
        dict(entry) | dict.fromkeys(clocks, 0) for entry in entries
    ]
    assert torch.equal(*(tensors(files) for files in (whole, again)))


def tensors(files: RunDir) -> torch.Tensor:
    adapter = load_file(files.adapter / "adapter_model.safetensors")
    return torch.cat([adapter[name].flatten() for name in sorted(adapter)])


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_draw_the_answers_of_a_step_together(model, data, tmp_path, method):
    plan = {"num_generations": 4, "max_length": 128}
    given = settings(method, max_steps=3, eval_fraction=0.1, eval_steps=3)
    ours = make_run(Inputs(model, data), tmp_path, "ddp", **plan)
    result = replace(ours, settings=given).execute().result

    entries = [entry.values for entry in result.history]
    assert len(entries) == 3
    assert any(entry["grad_norm"] > 0 for entry in entries)
    # A group of four answers is shared by processes of two each: were it judged apart, rewards of 0 and 1 would make
    # means that are no multiples of an eighth.
    assert all((entry["reward"] * 8).is_integer() for entry in entries)
    assert result.adapter.changed_tensors == result.adapter.tensors
    assert "eval_reward" in result.eval_history[-1].values


@pytest.mark.slow
def test_the_longest_answer_is_tried_before_the_first_step_and_leaves_no_trace(model, data, tmp_path):
    spec = JobSpec(model="org/m", dataset_uri="org/d", **settings("grpo"))
    task = TrainTask(
        model_path=model, data_path=data, base_model_name="org/m", base_model_revision=None, has_eval=False
    )
    trainer, _ = make_trainer(spec, PLAN, task, RunDir(tmp_path), lambda: None)
    trainer.create_optimizer()
    batch, state = trainer.trial_batch(), torch.get_rng_state()
    FitsMemory(trainer, EventLog(tmp_path / "log.jsonl")).on_train_begin(trainer.args, trainer.state, trainer.control)

    longest = max(len(row["input_ids"]) for row in trainer.train_dataset)
    assert batch["input_ids"].shape == (4, longest + 8)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
