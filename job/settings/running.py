"""On which machine, for how long, and what is kept and shown."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, PositiveFloat, PositiveInt

from job.kinds import Auto, Tracker
from job.records import Strategy
from job.settings.setting import setting


class RunningSettings(BaseModel):
    """On which machine, for how long, and what is kept and shown."""

    strategy: Literal["auto", Strategy] = setting(
        "auto",
        doc="How to use the GPUs: one copy of the model (`single`), one on each (`ddp`), or one shared by all (`fsdp`; "
        "`zero2` and `zero3` by DeepSpeed); `cpu` runs without one, whatever the model's size.",
        why="the fastest that fits: single or ddp, else fsdp, else fsdp with the base in the host's memory",
        changes_result=False,
    )
    cpu_offload: bool | Auto = setting(
        "auto",
        doc="With `fsdp` and `zero3`: keep the frozen base in the host's memory, from where it crosses to the GPU in "
        "every step.",
        why="only where nothing else fits",
        changes_result=False,
    )
    num_processes: int | None = setting(
        None, doc="Training processes.", why="one per visible GPU", changes_result=False, ge=1
    )
    gpu_hour_price: float | None = setting(
        None,
        doc="Price of one GPU for one hour, in any currency, for the cost in the plan.",
        why="no cost is shown",
        changes_result=False,
        gt=0,
    )
    max_hours: float | None = setting(
        None,
        doc="Hours that the run may take, all its attempts together. Before they are over the adapter is saved and "
        "published under `partial/`; a rerun with more goes on from there.",
        why="no limit",
        changes_result=False,
        gt=0,
    )
    max_cost: float | None = setting(
        None,
        doc="What the run may cost, all its attempts together, in the currency of JOB_GPU_HOUR_PRICE; ends as "
        "JOB_MAX_HOURS does.",
        why="no limit",
        changes_result=False,
        gt=0,
    )
    save_steps: PositiveInt | Auto = setting(
        "auto",
        doc="Optimizer steps between checkpoints, from which an interrupted run goes on. `auto`: as often as saving "
        "takes at most 2 % of the time and the store keeps up, and mostly every minute or two.",
        why="a minute or two of work is at stake, more only where saving or the store is slow",
        changes_result=False,
    )
    save_total_limit: int = setting(
        3, doc="Checkpoints kept in the output, besides the best by evaluation loss.", changes_result=False, ge=1
    )
    keep_checkpoints: bool = setting(
        True, doc="Leave the checkpoints in the output after success.", why="as upstream", changes_result=False
    )
    hang_timeout_s: PositiveFloat | Auto = setting(
        "auto",
        doc="Seconds without a sign of life from a training process after which it counts as hung. `auto`: 20 times "
        "the longest silence so far, between 2 and 10 minutes. Until the first step it is at least half an hour.",
        changes_result=False,
    )
    grace_s: float = setting(
        25.0,
        doc="Seconds from the first SIGTERM to the end of the training processes.",
        why="5 s below the 30 s that Kubernetes grants by default",
        changes_result=False,
        ge=0,
    )
    report_to: tuple[Tracker, ...] = setting(
        (),
        doc="Trackers that hear of every log line: `wandb`, `tensorboard` (its files are left with the attempt), "
        "`mlflow`. Each needs its package, and reads its own variables (`WANDB_PROJECT`, `MLFLOW_TRACKING_URI`, …).",
        why="none, as upstream",
        changes_result=False,
    )
    run_name: str | None = setting(
        None, doc="What trackers call the run.", why="the last part of JOB_OUTPUT_URI", changes_result=False
    )
    logging_steps: int = setting(10, doc="Optimizer steps between log lines.", changes_result=False, ge=1)
    check_rows: int | None = setting(
        None, doc="For the verb `check`: rows to look at.", why="all of them", changes_result=False, ge=1
    )
    work_dir: Path = setting(
        Path("/tmp/graft"),  # noqa: S108 (a documented default; the image sets /workspace)
        doc="The one writable place: downloads, prepared data, run files. The image sets `/workspace`.",
        changes_result=False,
    )
    log_level: Literal["debug", "info", "warning"] = setting(
        "info", doc="`debug` shows the training processes' own output too.", changes_result=False
    )
    debug: bool = setting(False, doc="Print tracebacks.", changes_result=False)
