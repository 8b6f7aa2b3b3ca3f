"""The same few steps under every strategy, by the real launcher and worker, two processes on this CPU.

``python -m tests.worker.strategies`` prints how far their losses and their adapters are apart.
"""

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from job.checkpoints import newest_checkpoint
from job.compatibility import adapter_dtypes
from job.launch import launch_command, launch_env
from job.optimizers import OPTIMIZERS
from job.prepare.story import prepare
from job.records import (
    ChatTemplateChoice,
    DataFile,
    GateSettings,
    Plan,
    PrepareTask,
    StartingAdapter,
    TrainResult,
    TrainTask,
)
from job.rundir import RunDir, read_record, write_json
from job.spec import JobSpec
from job.train.model import DTYPES, quantization_config
from tests.tiny import GSM8K, ROOT, write_model, write_rows
from tests.worker.forked import Nursery

STEPS = 10
GLOBAL_BATCH = 8
TOKENS = torch.arange(3, 60)[None]
STRATEGIES = ("single", "ddp", "fsdp", "zero2", "zero3")
SHARDED = ("fsdp", "zero2", "zero3")  # those that run on GPUs only, and here by the shim
SAVE_STEPS = 6
ENV = {"OMP_NUM_THREADS": "1"}
SHIM = {"ACCELERATE_TORCH_DEVICE": "cpu", "DS_ACCELERATOR": "cpu"}
TIMEOUT_S = 300


@dataclass(frozen=True)
class Inputs:
    """A tiny model and prepared rows."""

    model: Path
    data: Path


def make_inputs(folder: Path, eval_fraction: float = 0.0, rows: int = 200, *, packing: bool = False) -> Inputs:
    """Real questions where they are at hand, else sums."""
    path = folder / "rows.jsonl"
    if GSM8K.exists():
        path.write_text("".join(GSM8K.read_text().splitlines(keepends=True)[:rows]))
    else:
        write_rows(path, rows)
    model = write_model(folder / "model", path, vocab_size=1024)
    data = folder / "data"
    data.mkdir()
    gate = GateSettings(bad_rows="fail", max_bad_fraction=0.0, allow=())
    prepare(
        PrepareTask(
            train_files=(DataFile(path=path, name=path.name, identity=""),), tokenizer=model, tokenizer_identity="",
            columns={"prompt": "question", "completion": "answer"}, format=None, response_template=None,
            packing=packing, max_length=256, eval_fraction=eval_fraction, seed=1, gate=gate,
        ),
        data,
    )  # fmt: skip
    return Inputs(model, data)


@dataclass(frozen=True)
class Run:
    """One training: its plan, its settings, and the folder with its files."""

    inputs: Inputs
    root: Path
    plan: Plan
    settings: dict[str, Any]
    chat_template: ChatTemplateChoice | None = None
    resume_from: Path | None = None
    start: StartingAdapter | None = None
    module: str = "job.train"
    shim: bool = True  # where the strategy needs it; not on a GPU
    forked: bool = True  # from a process that has its modules; not where something happens as they are imported

    @cached_property
    def files(self) -> RunDir:
        return RunDir(self.root)

    @cached_property
    def result(self) -> TrainResult:
        return read_record(self.files.train_result, TrainResult)

    @property
    def losses(self) -> list[float]:
        return [entry.values["loss"] for entry in self.result.history]

    @property
    def adapter(self) -> Path:
        return self.files.adapter

    def execute(self) -> "Run":
        """Train to the end, or raise with what the worker said."""
        ended = self.attempt()
        assert ended.returncode == 0, ended.stdout[-20_000:]
        return self

    def write(self) -> tuple[JobSpec, TrainTask]:
        """What the worker is to read."""
        spec = JobSpec(model="org/m", dataset_uri="org/d", **self.settings)
        task = TrainTask(
            model_path=self.inputs.model, data_path=self.inputs.data, base_model_name="org/m", base_model_revision=None,
            has_eval=spec.evaluates, chat_template=self.chat_template, resume_from=self.resume_from,
            start=self.start,
        )  # fmt: skip
        for path, record in ((self.files.spec, spec), (self.files.plan, self.plan), (self.files.train_task, task)):
            write_json(path, record)
        return spec, task

    def attempt(self) -> "subprocess.CompletedProcess[str]":
        """Train, however that ends."""
        self.write()
        shim = self.shim and self.plan.strategy in SHARDED
        env = launch_env(self.plan, _env(shim), self.files)
        command = [self.module if part == "job.train" else part for part in launch_command(self.plan, self.files)]
        if not self.forked or (self.plan.use_gpu and not shim):  # what is imported may touch the GPU
            return subprocess.run(
                command, cwd=self.root, env=env, timeout=TIMEOUT_S,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
        bitsandbytes = self.plan.quantization != "none" or OPTIMIZERS[self.plan.optim].from_bitsandbytes
        return _nursery(shim, bitsandbytes).launch(command, env, self.root, TIMEOUT_S)


@cache
def _nursery(shim: bool, bitsandbytes: bool) -> Nursery:
    env = {"HF_HUB_OFFLINE": "1"}
    if not shim:
        return Nursery(_env(shim) | env, (), bitsandbytes=bitsandbytes)
    return Nursery(_env(shim) | env | {"LOCAL_RANK": "0"}, ("deepspeed",), bitsandbytes=bitsandbytes)


def _env(shim: bool) -> dict[str, str]:
    path = [ROOT, ROOT / "tests" / "worker" / "shim"] if shim else [ROOT]
    around = os.environ.get("PYTHONPATH")  # where packages may be
    joined = os.pathsep.join([*map(str, path), *([around] if around else [])])
    return os.environ | ENV | (SHIM if shim else {}) | {"PYTHONPATH": joined}


def resumed(run: Run, root: Path) -> Run:
    """*run*, saved every SAVE_STEPS, as if it had died after its first checkpoint, begun again from there."""
    shutil.rmtree(run.files.checkpoints / f"checkpoint-{STEPS}", ignore_errors=True)
    checkpoint = newest_checkpoint(run.files.checkpoints, run.plan)
    assert checkpoint.name == f"checkpoint-{SAVE_STEPS}"
    return replace(run, root=root, resume_from=checkpoint).execute()


def make_run(inputs: Inputs, root: Path, strategy: str, *, save_steps: int = STEPS, **plan: Any) -> Run:
    """A run under *strategy*: one process for ``single``, else two, unless *plan* says otherwise."""
    processes = plan.get("num_processes", 1 if strategy == "single" else 2)
    defaults = {
        "num_processes": processes, "precision": "fp32", "per_device_train_batch_size": 2,
        "global_batch_size": GLOBAL_BATCH, "packing": False,
        "gradient_accumulation_steps": GLOBAL_BATCH // (2 * processes), "gradient_checkpointing": False,
        "max_length": 256, "use_gpu": strategy in SHARDED, "reasons": {},
    }  # fmt: skip
    settings = {
        "max_steps": STEPS, "learning_rate": 1e-2, "lr_scheduler_type": "linear", "warmup_steps": 0,
        "logging_steps": 1, "save_steps": save_steps,
    }  # fmt: skip
    return Run(inputs, root, Plan(strategy=strategy, **(defaults | plan)), settings)


def logits_of(run: Run) -> torch.Tensor:
    """What the run's adapter makes of a few tokens in plain PEFT, on a base quantized as in training."""
    return _logits(load_in_plain_peft(run))


def moved_by(run: Run) -> torch.Tensor:
    """How far the run's adapter moves the logits of a few tokens."""
    model = load_in_plain_peft(run)
    with model.disable_adapter():
        before = _logits(model)
    return _logits(model) - before


def load_in_plain_peft(run: Run) -> PeftModel:
    quantized = {"quantization_config": quantization_config(run.plan)} if run.plan.quantization != "none" else {}
    base = AutoModelForCausalLM.from_pretrained(run.inputs.model, dtype=DTYPES[run.plan.precision], **quantized)
    return PeftModel.from_pretrained(base, run.adapter).eval()


@torch.no_grad()
def _logits(model: PeftModel) -> torch.Tensor:
    return model(input_ids=TOKENS.to(model.device)).logits.float().cpu()


def main() -> None:
    """Print the table of docs/benchmarks.md."""
    print("| base | strategy | losses | logits |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        inputs = make_inputs(Path(scratch))
        for quantization in ("none", "nf4", "int8"):
            runs = {
                strategy: make_run(inputs, Path(scratch) / quantization / strategy, strategy, quantization=quantization)
                for strategy in STRATEGIES
                if adapter_dtypes(strategy, quantization, "fp32")
            }
            first = runs.pop("single").execute()
            for strategy, run in runs.items():
                run.execute()
                loss = max(abs(ours - theirs) for ours, theirs in zip(run.losses, first.losses, strict=True))
                logit = (logits_of(run) - logits_of(first)).abs().max().item()
                print(f"| {quantization} | {strategy} | {loss:.1e} | {logit:.1e} |", flush=True)


if __name__ == "__main__":
    main()
