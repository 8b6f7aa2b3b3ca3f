"""The same few steps under every strategy, by the real launcher and worker, two processes on this CPU.

``python -m tests.worker.strategies`` prints how far their losses and their adapters are apart.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from job.launch import launch_command, launch_env
from job.prepare.story import prepare
from job.records import DataFile, GateSettings, Plan, PrepareTask, TrainResult, TrainTask
from job.rundir import RunDir, read_record, write_json
from job.spec import JobSpec
from tests.tiny import GSM8K, ROOT, write_model, write_rows

STEPS = 10
GLOBAL_BATCH = 8
SHARDED = ("fsdp", "zero2", "zero3")  # those that run on GPUs only, and here by the shim
ENV = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
SHIM = {
    "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'worker' / 'shim'}",
    "ACCELERATE_TORCH_DEVICE": "cpu",
    "DS_ACCELERATOR": "cpu",
}
TIMEOUT_S = 300


@dataclass(frozen=True)
class Inputs:
    """A tiny model and prepared rows."""

    model: Path
    data: Path


def make_inputs(folder: Path) -> Inputs:
    """Real questions where they are at hand, else sums."""
    rows = folder / "rows.jsonl"
    if GSM8K.exists():
        rows.write_text("".join(GSM8K.read_text().splitlines(keepends=True)[:200]))
    else:
        write_rows(rows, 200)
    model = write_model(folder / "model", rows, vocab_size=1024)
    data = folder / "data"
    data.mkdir()
    gate = GateSettings(bad_rows="fail", max_bad_fraction=0.0, allow=())
    prepare(
        PrepareTask(
            train_files=(DataFile(path=rows, name=rows.name, identity=""),), tokenizer=model, tokenizer_identity="",
            columns={"prompt": "question", "completion": "answer"}, format=None, response_template=None, packing=False,
            max_length=256, eval_fraction=0.0, seed=1, gate=gate,
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
    resume_from: Path | None = None
    module: str = "job.train"

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
        assert ended.returncode == 0, ended.stdout[-6000:]
        return self

    def attempt(self) -> "subprocess.CompletedProcess[str]":
        """Train, however that ends."""
        spec = JobSpec(model="org/m", dataset_uri="org/d", **self.settings)
        task = TrainTask(
            model_path=self.inputs.model, data_path=self.inputs.data, base_model_name="org/m", base_model_revision=None,
            has_eval=False, resume_from=self.resume_from,
        )  # fmt: skip
        for path, record in ((self.files.spec, spec), (self.files.plan, self.plan), (self.files.train_task, task)):
            write_json(path, record)
        env = os.environ | ENV | (SHIM if self.plan.strategy in SHARDED else {})
        command = [self.module if part == "job.train" else part for part in launch_command(self.plan, self.files)]
        return subprocess.run(
            command, cwd=self.root, env=launch_env(self.plan, env), timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip


def make_run(inputs: Inputs, root: Path, strategy: str, *, max_steps: int = STEPS, save_steps: int = 1000, **plan: Any):
    """A run under *strategy*: one process for ``single``, else two."""
    processes = 1 if strategy == "single" else 2
    defaults = {
        "precision": "fp32", "per_device_train_batch_size": 2, "global_batch_size": GLOBAL_BATCH, "packing": False,
        "gradient_accumulation_steps": GLOBAL_BATCH // (2 * processes), "gradient_checkpointing": False,
        "max_length": 256, "use_gpu": strategy in SHARDED, "reasons": {},
    }  # fmt: skip
    settings = {
        "max_steps": max_steps, "learning_rate": 1e-2, "lr_scheduler_type": "linear", "warmup_steps": 0,
        "logging_steps": 1, "save_steps": save_steps,
    }  # fmt: skip
    root.mkdir(parents=True)
    return Run(inputs, root, Plan(strategy=strategy, num_processes=processes, **(defaults | plan)), settings)
