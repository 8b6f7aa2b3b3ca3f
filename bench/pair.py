"""The job and a bare TRL script on the same rows with the same settings, as their users would start them."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Case:
    """What both sides train."""

    model: Path
    rows: Path  # JSONL with `question` and `answer`
    packing: bool
    max_steps: int
    max_length: int = 256
    logging_steps: int = 1


@dataclass(frozen=True)
class Side:
    """What one side showed."""

    log: list[dict[str, float]]  # entries with a loss: step, loss, grad_norm
    first_step_s: float  # seconds from the start of the process to the end of the first optimizer step
    steps_per_s: float  # without the first step
    plan: dict[str, Any]  # the job's; empty for the bare script


def run_job(case: Case, folder: Path, work_dir: Path) -> Side:
    """``python entrypoint.py`` with an output in *folder*; *work_dir* keeps what a first run prepared."""
    settings = {
        "JOB_MODEL": str(case.model),
        "JOB_DATASET_URI": str(case.rows),
        "JOB_COLUMNS": "prompt=question,completion=answer",
        "JOB_OUTPUT_URI": str(folder / "job"),
        "JOB_WORK_DIR": str(work_dir),
        "JOB_PACKING": str(case.packing).lower(),
        "JOB_MAX_STEPS": str(case.max_steps),
        "JOB_MAX_LENGTH": str(case.max_length),
        "JOB_LEARNING_RATE": "1e-3",
        "JOB_GLOBAL_BATCH_SIZE": "8",
        "JOB_LOGGING_STEPS": str(case.logging_steps),
        "JOB_STRATEGY": "cpu",
    }
    began = time.time()
    subprocess.run([sys.executable, "entrypoint.py"], cwd=ROOT, env=_env() | settings, check=True, capture_output=True)
    metrics = json.loads((folder / "job" / "metrics.json").read_text())
    events = (folder / "job" / "attempts" / "0001" / "log.jsonl").read_text().splitlines()
    first = next(event for event in map(json.loads, events) if event["event"] == "first_step")
    log = [{"step": entry["step"], **entry["values"]} for entry in metrics["train"]["history"]]
    return Side(log, first["time"] - began, metrics["train"]["steps_per_s"], metrics["plan"])


def run_bare(case: Case, folder: Path, plan: dict[str, Any]) -> Side:
    """``accelerate launch bench/bare_trl.py``. The batch is the plan's: how it is split is not what is compared."""
    log = folder / "bare.json"
    arguments = {
        "model": case.model,
        "dataset": case.rows,
        "output": folder / "bare",
        "prompt-column": "question",
        "completion-column": "answer",
        "dtype": "float32",
        "max-length": case.max_length,
        "per-device-train-batch-size": plan["per_device_train_batch_size"],
        "gradient-accumulation-steps": plan["gradient_accumulation_steps"],
        "max-steps": case.max_steps,
        "learning-rate": 1e-3,
        "lr-scheduler-type": "cosine",
        "warmup-steps": 0.03,
        "weight-decay": 0.01,
        "seed": 42,
        "logging-steps": case.logging_steps,
        "log-json": log,
    }
    options = [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
    flags = ["--use-cpu", "--no-bf16", "--no-gradient-checkpointing", "--packing" if case.packing else "--no-packing"]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    began = time.time()
    subprocess.run(
        [*launcher, "bench/bare_trl.py", *options, *flags], cwd=ROOT, env=_env(), check=True, capture_output=True
    )
    result = json.loads(log.read_text())
    entries = [entry for entry in result["log_history"] if "loss" in entry]
    return Side(entries, result["first_step_end_s"] - began, result["steps_per_s"], {})


def unequal_steps(job: Side, bare: Side, tolerance: float = 1e-6) -> list[float]:
    """Steps whose losses differ by more than *tolerance*; all of them when the two sides logged different steps."""
    if [entry["step"] for entry in job.log] != [entry["step"] for entry in bare.log]:
        return [entry["step"] for entry in bare.log]
    pairs = zip(job.log, bare.log, strict=True)
    return [ours["step"] for ours, theirs in pairs if not abs(ours["loss"] - theirs["loss"]) <= tolerance]


def _env() -> dict[str, str]:
    """This process's environment without settings of a job."""
    return {name: value for name, value in os.environ.items() if not name.startswith("JOB_")}
