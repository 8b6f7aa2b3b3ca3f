"""Trackers as the supervisor sees them: processes beside training that nobody waits for until it is over."""

import contextlib
import importlib.util
import time
from collections.abc import Iterator, Mapping

from job.errors import AccessDenied, BadSpec, JobError
from job.processes import Child, tracker_env
from job.run import Run
from job.spec import JobSpec

_LAST_S = 15.0  # for a tracker to send what it has left, after training


def check_trackers(spec: JobSpec, env: Mapping[str, str]) -> None:
    """Raises:
    BadSpec: the library of a tracker is not installed.
    AccessDenied: it would ask a person for a key.
    """
    for name in spec.report_to:
        if importlib.util.find_spec(name) is None:
            raise BadSpec(
                f"JOB_REPORT_TO={name} needs the package {name}, which is not installed.",
                f"Build on the image with pip install 'graft[{name}]', or leave {name} out.",
            )
    if "wandb" in spec.report_to and not _has_wandb_key(env):
        raise AccessDenied(
            "JOB_REPORT_TO=wandb has no WANDB_API_KEY.",
            "Set WANDB_API_KEY, or WANDB_MODE=offline to keep figures here.",
        )


def _has_wandb_key(env: Mapping[str, str]) -> bool:
    return bool(env.get("WANDB_API_KEY") or env.get("WANDB_API_KEY_FILE")) or env.get("WANDB_MODE") in _NO_KEY


_NO_KEY = ("offline", "disabled", "dryrun")


@contextlib.contextmanager
def tracked(run: Run) -> Iterator[None]:
    """While training goes on, every tracker of the spec hears of it. One that fails or hangs is told of, and nothing
    else comes of it."""
    children = {name: _start(run, name) for name in run.spec.report_to}
    try:
        yield
    finally:
        run.log.write("tracking_end")
        end = min(time.monotonic() + _LAST_S, run.grace_ends())
        for name, child in children.items():
            if problem := _end(child, end):
                run.console.warn(f"  {name}: {problem}; training was not affected")


def _start(run: Run, name: str) -> Child:
    env = tracker_env(run.env, run.shop.env)
    log = run.dir.root / f"{name}.log"
    return Child("job.track", [run.dir.root, name], run.dir.tracker_error(name), log, env, beside=True)


def _end(child: Child, end: float) -> str | None:
    """Wait for *child* until *end*, by time.monotonic(); what went wrong, or None."""
    try:
        return None if child.ended_by(end) else f"had more to send after {_LAST_S:.0f} s"
    except JobError as error:
        return error.cause
