"""Peak memory and speed of real training steps on one GPU, beside what a plan foresees for exactly these settings.

python bench/memory_grid.py [--minutes 20] [--first 1]; with ``--predict [H100]`` only what is foreseen, without a GPU.

Each setting is planned by `make_plan` and trained by the job's own worker, in processes of its own, on rows of exactly
the length in question; models have their published configurations and random weights. Two figures are compared:
*allocated* is the peak of what PyTorch's allocator has handed out, against the plan's lines without CUDA context and
allocator slack; *on the GPU* is what NVML sees, against all lines. The exit status is 1 if an allocated peak is further
than TOLERANCE from what was foreseen, or if a setting that fits by its plan ran out of memory or failed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.memory_settings import SETTINGS, Setting, write_rows  # noqa: E402
from bench.random_model import make_model  # noqa: E402
from job.errors import BadSpec, JobError  # noqa: E402
from job.facts.gpus import parse_gpus  # noqa: E402
from job.facts.hardware import inspect_hardware  # noqa: E402
from job.launch import run_training  # noqa: E402
from job.processes import children_env  # noqa: E402
from job.records import HardwareFacts, MemoryEstimate, Plan, TrainResult, TrainTask  # noqa: E402
from job.rundir import RunDir, read_record, write_json  # noqa: E402

TOLERANCE = 0.10
# A setting takes half a minute, a model as long to be made; one that hangs must not take the others' time.
SETTING_LIMIT_S = 180.0
NOT_ALLOCATED = ("CUDA context", "allocator slack")


_SETTING_HEAD = ("", "model", "base", "checkpointing", "dropout", "batch")
PREDICT_HEAD = (*_SETTING_HEAD, "allocated GiB", "on the GPU", "tokens/s")
HEAD = (
    *_SETTING_HEAD, "allocated GiB", "measured", "", "on the GPU", "measured", "tokens/s", "measured",
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """What a finished run has shown."""

    allocated_gib: float
    held_gib: float  # by NVML, above what was held before
    tokens_per_s: float


def allocated_gib(memory: MemoryEstimate) -> float:
    """What of *memory* PyTorch's allocator hands out."""
    return sum(item.gib for item in memory.items if item.name not in NOT_ALLOCATED)


class Meter:
    """Looks at the GPU while a run goes on, and ends one that hangs."""

    def __init__(self, limit_s: float) -> None:
        self._end = time.monotonic() + limit_s
        self._before_gib = self._held_now()
        self.held_gib = 0.0

    def look(self) -> None:
        """Raises:
        TimeoutError: the run has had its time.
        """
        self.held_gib = max(self.held_gib, self._held_now() - self._before_gib)
        if time.monotonic() > self._end:
            raise TimeoutError(f"it was not done after {SETTING_LIMIT_S:.0f} s")

    def _held_now(self) -> float:
        gpus = inspect_hardware(os.environ).gpus
        return gpus[0].used_gib if gpus else 0.0


def measure(setting: Setting, plan: Plan, model: Path, root: Path) -> Measured:
    """Train *setting* by *plan* with the model in the folder *model*; *root* is the run's own folder.

    Raises:
        JobError: training failed, or ran out of memory.
        TimeoutError: it took too long.
    """
    run_dir, data = RunDir(root), root / "data"
    data.mkdir(parents=True)
    write_rows(setting, data / "train.arrow")
    task = TrainTask(
        model_path=model, data_path=data, base_model_name=setting.model, base_model_revision=None, has_eval=False
    )
    for path, record in ((run_dir.spec, setting.spec), (run_dir.plan, plan), (run_dir.train_task, task)):
        write_json(path, record)
    meter = Meter(SETTING_LIMIT_S)
    run_training(plan, run_dir, children_env(os.environ), "auto", lambda: None, meter.look)
    result = read_record(run_dir.train_result, TrainResult)
    tokens_per_s = (result.steps - 1) / result.after_first_step_s * result.tokens / result.steps
    return Measured(result.peak_gpu_memory_gib or 0.0, meter.held_gib, tokens_per_s)


@dataclass
class Grid:
    """Runs settings one after the other, prints a row for each, and remembers what was wrong."""

    hardware: HardwareFacts
    end: float  # of the time there is, by time.monotonic()

    def __post_init__(self) -> None:
        self.wrong: list[str] = []

    def run(self, settings: Sequence[tuple[int, Setting]]) -> None:
        """*settings* with their numbers; those of one model stand together."""
        print_row(HEAD)
        print_row("---" for _ in HEAD)
        for model, group in groupby(settings, key=lambda one: one[1].model):
            with TemporaryDirectory(prefix="graft-grid-") as scratch:
                for number, setting in group:
                    print_row([str(number), *setting.cells, *self._outcome(number, setting, model, Path(scratch))])

    def _outcome(self, number: int, setting: Setting, model: str, scratch: Path) -> Sequence[str]:
        if time.monotonic() > self.end:
            return ["not run: the time is used up"]
        try:
            plan = setting.plan(self.hardware)
        except BadSpec as error:
            return [f"not run: {error.cause}"]
        try:
            if not (scratch / "model").exists():
                make_model(scratch / "model", model)
            found = measure(setting, plan, scratch / "model", scratch / "run")
        except (JobError, OSError, subprocess.CalledProcessError) as error:  # TimeoutError is an OSError
            self.wrong.append(f"{number}: {error}")
            traceback.print_exception(error)  # with the worker's own, as a note
            return [f"failed: {' '.join(str(error).split())}"]
        finally:
            shutil.rmtree(scratch / "run", ignore_errors=True)
        if is_off(plan, found):
            self.wrong.append(f"{number}: {found.allocated_gib:.2f} GiB allocated, {foreseen(plan)[0]:.2f} foreseen")
        return compared(plan, found)


def is_off(plan: Plan, found: Measured) -> bool:
    """Whether what was allocated is further than TOLERANCE from what *plan* foresaw."""
    return abs(found.allocated_gib / foreseen(plan)[0] - 1) > TOLERANCE


def compared(plan: Plan, found: Measured) -> list[str]:
    """The last cells of a row."""
    allocated, whole, speed = foreseen(plan)
    return [
        f"{allocated:.2f}", f"{found.allocated_gib:.2f}", f"{found.allocated_gib / allocated - 1:+.1%}",
        f"{whole:.1f}", f"{found.held_gib:.1f}", f"{speed:,.0f}", f"{found.tokens_per_s:,.0f}",
    ]  # fmt: skip


def foreseen(plan: Plan) -> tuple[float, float, float]:
    """GiB allocated, GiB in all, and tokens/s (0: the GPU's speed is not known)."""
    if plan.memory is None:
        raise ValueError("a plan for a CPU foresees no memory of a GPU")
    return allocated_gib(plan.memory), plan.memory.total_gib, plan.forecast.tokens_per_s if plan.forecast else 0.0


def predicted(settings: Sequence[tuple[int, Setting]], hardware: HardwareFacts) -> Iterator[Sequence[str]]:
    """The rows of the table without a GPU."""
    for number, setting in settings:
        try:
            allocated, whole, speed = foreseen(setting.plan(hardware))
        except BadSpec as error:
            yield [str(number), *setting.cells, error.cause]
        else:
            yield [str(number), *setting.cells, f"{allocated:.2f}", f"{whole:.1f}", f"{speed:,.0f}"]


def print_row(cells: Sequence[str] | Iterator[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare a GPU's memory and speed with what plans foresee.")
    parser.add_argument("--predict", nargs="?", const="H100", help="only foresee, for this GPU")
    parser.add_argument("--minutes", type=float, default=20, help="after which no further setting is begun")
    parser.add_argument("--first", type=int, default=1, help="the setting to begin with")
    args = parser.parse_args()
    settings = list(enumerate(SETTINGS, 1))[args.first - 1 :]
    if args.predict:
        for cells in (PREDICT_HEAD, ["---"] * len(PREDICT_HEAD)):
            print_row(cells)
        for cells in predicted(settings, HardwareFacts(gpus=parse_gpus(args.predict))):
            print_row(cells)
        return
    hardware = inspect_hardware(os.environ)
    if not hardware.gpus:
        sys.exit("No NVIDIA GPU is visible; --predict shows what plans foresee.")
    one_gpu = hardware.model_copy(update={"gpus": hardware.gpus[:1]})
    print(f"{one_gpu.gpus[0].name}, driver {hardware.driver}", flush=True)
    grid = Grid(one_gpu, time.monotonic() + 60 * args.minutes)
    grid.run(settings)
    sys.exit("\n".join(grid.wrong) or None)


if __name__ == "__main__":
    main()
