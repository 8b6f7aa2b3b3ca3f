"""The figures of docs/benchmarks.md that need no GPU. ``make bench``; about ten minutes on two cores.

Times are compared only inside one run: job and bare script in turn, and the median of the paired ratios.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pair import ROOT, Case, run_bare, run_job, unequal_steps

PAIRS = 5
REFUSALS = 9
GSM8K = ROOT.parent / "shared" / "data" / "gsm8k_train.jsonl"


def refusal_s(settings: dict[str, str]) -> float:
    """Median seconds from the start of the process to its refusal."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("JOB_")} | settings
    times = []
    for _ in range(REFUSALS):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "entrypoint.py"], cwd=ROOT, env=env, capture_output=True)
        times.append(time.perf_counter() - began)
        assert done.returncode in (66, 77, 78), done.stderr.decode()
    return statistics.median(times)


def refusals(model: Path, rows: Path, folder: Path) -> None:
    good = {
        "JOB_MODEL": str(model),
        "JOB_DATASET_URI": str(rows),
        "JOB_OUTPUT_URI": str(folder / "refused"),
        "JOB_COLUMNS": "prompt=question,completion=answer",
        "JOB_WORK_DIR": str(folder / "work"),
    }
    row("refusing a misspelt variable", refusal_s(good | {"JOB_LORA_RANK": "8"}), 0.5, "s")
    row("refusing a missing dataset", refusal_s(good | {"JOB_DATASET_URI": "/nowhere.jsonl"}), 3, "s")
    row("refusing an unwritable output", refusal_s(good | {"JOB_OUTPUT_URI": "/proc/graft"}), 3, "s")


def against_bare_trl(name: str, case: Case, folder: Path) -> None:
    """One warm-up pair, then PAIRS pairs. No figure without equality: unequal losses void the rows."""
    work_dir = folder / f"work-{name}"
    plan = run_job(case, folder / f"{name}-warm", work_dir).plan
    run_bare(case, made(folder / f"{name}-warm"), plan)
    pairs = []
    for index in range(PAIRS):
        here = made(folder / f"{name}-{index}")
        pairs.append((run_job(case, here, work_dir), run_bare(case, here, plan)))
    unequal = [step for job, bare in pairs for step in unequal_steps(job, bare)]
    if unequal:
        print(f"| {name} | void: losses differ at steps {unequal[:5]} | | |")
        return
    steps = len(pairs[0][0].log)
    print(f"| {name}: losses equal to 1e-6 | {steps} of {steps} steps, {PAIRS} runs | all | yes |")
    row(
        f"{name}: steps/s against bare TRL",
        median(pairs, lambda j, b: j.steps_per_s / b.steps_per_s),
        0.98,
        "×",
        least=True,
    )
    row(
        f"{name}: start to first step against it",
        median(pairs, lambda j, b: j.first_step_s / b.first_step_s),
        1.25,
        "×",
    )


def median(pairs: list, ratio: Callable[..., float]) -> float:
    return statistics.median(ratio(job, bare) for job, bare in pairs)


def made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def row(name: str, value: float, goal: float, unit: str, least: bool = False) -> None:
    kept = value >= goal if least else value <= goal
    print(
        f"| {name} | {value:.2f} {unit} | {'≥' if least else '≤'} {goal} {unit} | {'yes' if kept else 'NO'} |",
        flush=True,
    )


def main() -> None:
    if not GSM8K.exists():
        sys.exit(f"{GSM8K} is missing: the comparison wants real rows")
    os.environ["OMP_NUM_THREADS"] = "1"  # a tiny model on two cores: threads only add noise, on both sides
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = folder / "model"
        make = [sys.executable, "bench/make_tiny_model.py", str(model), "--corpus", str(GSM8K)]
        subprocess.run(make, cwd=ROOT, check=True, capture_output=True)
        print("| figure | measured | goal | kept |\n|---|---|---|---|", flush=True)
        refusals(model, GSM8K, folder)
        for name, packing in (("unpacked", False), ("packed", True)):
            against_bare_trl(name, Case(model, GSM8K, packing=packing, max_steps=30, max_length=1024), folder)


if __name__ == "__main__":
    main()
