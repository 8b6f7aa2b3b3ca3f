"""Start ``accelerate launch``, watch it, and leave no process behind."""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from job.errors import GpuFault, Interrupted
from job.processes import POLL_S, StopRequest, child_error, end_descendants
from job.records import Plan
from job.rundir import RunDir

_CONFIGS = Path(__file__).resolve().parent.parent / "accelerate_configs"
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


def launch_env(plan: Plan, env: Mapping[str, str]) -> dict[str, str]:
    """The workers' environment: *env* and what the plan adds, offline, with one visible GPU for a single process."""
    worker_env = dict(env) | plan.worker_env
    worker_env["HF_HUB_OFFLINE"] = "1"  # everything is local by now; a lookup would be a bug and a delay
    if not plan.use_gpu:
        worker_env["ACCELERATE_USE_CPU"] = "true"
    if plan.strategy == "single":
        # With several visible GPUs the Trainer would fall back to nn.DataParallel.
        worker_env["CUDA_VISIBLE_DEVICES"] = env.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return worker_env


def run_training(
    plan: Plan, run_dir: RunDir, env: Mapping[str, str], grace_s: float, stop: StopRequest, watch: Callable[[], None]
) -> None:
    """Run the workers to their end, calling *watch* several times a second.

    On a signal the stop file asks them to finish their step; after *grace_s* seconds they are killed.

    Raises:
        JobError: the root cause that a rank reported, or that a worker died without a report.
        Interrupted: the grace period ran out.
    """
    with run_dir.worker_log.open("wb") as output:
        process = subprocess.Popen(
            launch_command(plan, run_dir), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env=launch_env(plan, env), start_new_session=True,
        )  # fmt: skip
    try:
        while process.poll() is None:
            watch()
            if stop.since is not None:
                run_dir.stop.touch()
                if time.monotonic() - stop.since > grace_s:
                    raise Interrupted(
                        f"The training processes did not stop within JOB_GRACE_S={grace_s:g}.",
                        "Run the same job again.",
                    )
            time.sleep(POLL_S)
    finally:
        end_descendants()
    watch()
    if process.returncode:
        reports = [run_dir.error(rank) for rank in range(plan.num_processes)]
        raise child_error(reports, process.returncode, "The training process", run_dir.worker_log, GpuFault)
