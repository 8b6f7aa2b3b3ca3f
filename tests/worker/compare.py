"""Runs the job and a bare TRL script on the same rows with the same settings."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.tiny import ROOT

MAX_LENGTH = 256


def clean_env() -> dict[str, str]:
    """This process's environment without settings of a job."""
    return {name: value for name, value in os.environ.items() if not name.startswith("JOB_")}


def run_job(tmp_path: Path, model: Path, rows: Path, *, packing: bool, max_steps: int) -> dict[str, Any]:
    """The job's metrics.json."""
    settings = {
        "JOB_MODEL": str(model),
        "JOB_DATASET_URI": str(rows),
        "JOB_COLUMNS": "prompt=question,completion=answer",
        "JOB_OUTPUT_URI": str(tmp_path / "job"),
        "JOB_WORK_DIR": str(tmp_path / "work"),
        "JOB_PACKING": str(packing).lower(),
        "JOB_MAX_STEPS": str(max_steps),
        "JOB_MAX_LENGTH": str(MAX_LENGTH),
        "JOB_LEARNING_RATE": "1e-3",
        "JOB_LOGGING_STEPS": "1",
        "JOB_STRATEGY": "cpu",
    }
    command = [sys.executable, "entrypoint.py"]
    subprocess.run(command, cwd=ROOT, env=clean_env() | settings, check=True, capture_output=True)
    metrics: dict[str, Any] = json.loads((tmp_path / "job" / "metrics.json").read_text())
    return metrics


def run_bare_trl(
    tmp_path: Path, model: Path, rows: Path, *, packing: bool, max_steps: int, plan: dict[str, Any]
) -> list[dict[str, Any]]:
    """The bare script's log entries with a loss. The batch is the plan's: how it is split is not what is compared."""
    log = tmp_path / "bare.json"
    arguments = {
        "model": model,
        "dataset": rows,
        "output": tmp_path / "bare",
        "prompt-column": "question",
        "completion-column": "answer",
        "dtype": "float32",
        "max-length": MAX_LENGTH,
        "per-device-train-batch-size": plan["per_device_train_batch_size"],
        "gradient-accumulation-steps": plan["gradient_accumulation_steps"],
        "max-steps": max_steps,
        "learning-rate": 1e-3,
        "lr-scheduler-type": "cosine",
        "warmup-steps": 0.03,
        "weight-decay": 0.01,
        "lora-r": 16,
        "lora-alpha": 32,
        "seed": 42,
        "logging-steps": 1,
        "log-json": log,
    }
    flags = ["--use-cpu", "--no-bf16", "--no-gradient-checkpointing", "--packing" if packing else "--no-packing"]
    options = [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "bench/bare_trl.py", *options, *flags]
    subprocess.run(command, cwd=ROOT, env=clean_env(), check=True, capture_output=True)
    return [entry for entry in json.loads(log.read_text())["log_history"] if "loss" in entry]
