"""Start ``accelerate launch``, watch it, and leave no process behind."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from job.child import read_error
from job.errors import GpuFault, Interrupted, JobError
from job.processes import POLL_S, child_error, kill_descendants, last_line
from job.records import Plan, StopNotice
from job.root_cause import oom_kills, root_cause
from job.rundir import RunDir, read_record, write_json
from job.signals import die_with_parent
from job.watchdog import Watchdog

_CONFIGS = Path(__file__).resolve().parent.parent / "accelerate_configs"
# A rank that lost a peer may be faster to say so than that peer's end is to be recorded, and a rank that vanishes is
# missed for three seconds.
_SETTLE_S = 5.0
_AGAIN = "Run the same job again."
_MIXED_PRECISION = {"bf16": "bf16", "fp16": "fp16", "fp32": "no"}


def launch_command(plan: Plan, run_dir: RunDir) -> list[str]:
    """The launcher's argv. Process count, precision and port are never left to the config file's or upstream's
    defaults (TRL's own configs say 8 processes)."""
    return [
        sys.executable, "-m", "accelerate.commands.launch",
        "--config_file", str(_CONFIGS / f"{plan.strategy}.yaml"),
        "--num_processes", str(plan.num_processes),
        "--mixed_precision", _MIXED_PRECISION[plan.precision],
        "--main_process_port", "0",
        *_offload(plan),
        "-m", "job.train", str(run_dir.root),
    ]  # fmt: skip


def _offload(plan: Plan) -> list[str]:
    """Where the frozen base lives. The optimizer's state stays on the GPU: an adapter's is small."""
    match plan.strategy:
        case "fsdp":
            return ["--fsdp_offload_params", str(plan.cpu_offload).lower()]
        case "zero3":
            return ["--offload_param_device", "cpu" if plan.cpu_offload else "none"]
        case _:
            return []


def launch_env(plan: Plan, env: Mapping[str, str], run_dir: RunDir) -> dict[str, str]:
    """The workers' environment: *env* and what the plan adds, offline, with one visible GPU for a single process, and
    with the process that they must not outlive. What DeepSpeed compiles stays with the run."""
    worker_env = {"TORCH_EXTENSIONS_DIR": str(run_dir.extensions)} | dict(env) | plan.worker_env
    worker_env["GRAFT_SUPERVISOR_PID"] = str(os.getpid())
    worker_env["HF_HUB_OFFLINE"] = "1"  # everything is local by now; a lookup would be a bug and a delay
    if not plan.use_gpu:
        worker_env["ACCELERATE_USE_CPU"] = "true"
    if plan.strategy == "single":
        # With several visible GPUs the Trainer would fall back to nn.DataParallel.
        worker_env["CUDA_VISIBLE_DEVICES"] = env.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return worker_env


def run_training(
    plan: Plan,
    run_dir: RunDir,
    env: Mapping[str, str],
    hang_timeout_s: float | Literal["auto"],
    wants_stop: Callable[[], StopNotice | None],
    watch: Callable[[], None],
) -> None:
    """Run the workers to their end, calling *watch* and *wants_stop* several times a second, and leave no process.

    What *wants_stop* returns is passed on to the workers, which finish their step; what still runs at its deadline is
    killed. A rank that fails or hangs takes the others with it at once; launchers wait up to 30 s for them.

    Raises:
        JobError: the root cause, as a rank reported it or as its end tells.
        Hang: a rank showed no sign of life.
        Interrupted: a deadline passed, or the launcher ended on the way to it.
    """
    _forget_earlier_ranks(run_dir)
    watchdog, stop = Watchdog(run_dir, plan.num_processes, hang_timeout_s), _Stop(run_dir, wants_stop)
    killed_before = oom_kills()
    process = _start(plan, run_dir, env)
    try:
        while (status := process.poll()) is None and not watchdog.failed():
            watch()
            stop.check()
            time.sleep(POLL_S)
        error = _why(status, run_dir, watchdog, stop, killed_before) if status != 0 else None
    finally:
        kill_descendants()  # of which none has anything left to do, and some would take SIGTERM as a wish to stop
    watch()
    if error:
        raise error


def _forget_earlier_ranks(run_dir: RunDir) -> None:
    """Nothing that the workers before have left may be taken for the next ones'."""
    for folder in (run_dir.errors, run_dir.beat(0).parent, run_dir.exit(0).parent, run_dir.stack(0).parent):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    # A process that was killed while it compiled leaves this behind, and whoever comes next waits for ever
    # (torch 2.13, utils/file_baton.py).
    for lock in run_dir.extensions.glob("*/lock"):
        lock.unlink()


def _start(plan: Plan, run_dir: RunDir, env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    with run_dir.worker_log.open("wb") as output:
        return subprocess.Popen(
            launch_command(plan, run_dir), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env=launch_env(plan, env, run_dir), start_new_session=True, preexec_fn=die_with_parent,
        )  # fmt: skip


class _Stop:
    """The wish to stop: passed on once, and again only when it becomes more pressing."""

    def __init__(self, run_dir: RunDir, wanted: Callable[[], StopNotice | None]) -> None:
        self._path, self._wanted = run_dir.stop, wanted
        self.notice: StopNotice | None = None

    def check(self) -> None:
        """Raises:
        Interrupted: its deadline has passed.
        """
        for notice in (self._wanted(), self._from_a_rank()):
            if notice and (self.notice is None or notice.deadline < self.notice.deadline):
                self.notice = notice
                write_json(self._path, notice)
        if self.notice and time.monotonic() > self.notice.deadline:
            raise Interrupted(f"{self.notice.reason} The training processes did not stop in time.", _AGAIN)

    def _from_a_rank(self) -> StopNotice | None:
        """The notice of a rank that a signal came to; or the one that was passed on."""
        with contextlib.suppress(FileNotFoundError):
            return read_record(self._path, StopNotice)
        return None


def _why(status: int | None, run_dir: RunDir, watchdog: Watchdog, stop: _Stop, killed_before: int) -> JobError:
    """Why the launcher ended with *status*, or a rank failed while it still runs (None)."""
    stop.check()
    end = time.monotonic() + _SETTLE_S
    while (cause := _root_cause(run_dir, watchdog, killed_before)) is None and time.monotonic() < end:
        time.sleep(POLL_S)
        stop.check()  # who signals all processes at once ends the launcher before its supervisor has looked
        watchdog.failed()  # which also finds ranks that vanished
    # With a launcher that a signal has ended its ranks are gone too, and nothing can be said against them.
    if stop.notice and (cause is None or (status is not None and status < 0)):
        return Interrupted(f"{stop.notice.reason} The training processes ended without a result.", _AGAIN)
    return cause or child_error(_errors(run_dir, watchdog), status or 1, "Training", run_dir.worker_log, GpuFault)


def _root_cause(run_dir: RunDir, watchdog: Watchdog, killed_before: int) -> JobError | None:
    return root_cause(
        [report for path in _errors(run_dir, watchdog) if (report := read_error(path))],
        watchdog.ends(),
        watchdog.silent_s(),
        memory_ran_out=oom_kills() > killed_before,
        last_line=last_line(run_dir.worker_log),
    )


def _errors(run_dir: RunDir, watchdog: Watchdog) -> list[Path]:
    return [run_dir.error(rank) for rank in watchdog.silent_s()]
