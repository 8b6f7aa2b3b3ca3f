"""How a run ended, told three times: stdout's last line, the termination log, the output store."""

import contextlib
import json
from pathlib import Path
from typing import Literal

from job.errors import DeadlineReached, Interrupted, JobError, NetworkExhausted, UploadIncomplete
from job.records import Outcome
from job.redact import Redactor

LIMIT_BYTES = 4096  # Kubernetes keeps this much of a termination message
FIX_LENGTH = 500  # characters; what is left of the limit is the cause's
_CUT = " …"
TERMINATION_LOG = Path("/dev/termination-log")


def success(cause: str, attempt: int | None, last_durable_step: int | None = None) -> Outcome:
    return Outcome(
        status="finished", code=0, error_class="Success", phase="done", cause=cause, fix="", attempt=attempt,
        last_durable_step=last_durable_step,
    )  # fmt: skip


def failure(
    error: JobError, phase: str, attempt: int | None, redact: Redactor, last_durable_step: int | None = None
) -> Outcome:
    """*error* as an outcome, without secrets."""
    return Outcome(
        status=_status(error),
        code=error.exit_code,
        error_class=type(error).__name__,
        phase=phase,
        cause=redact(error.cause),
        fix=redact(_again(last_durable_step) if isinstance(error, Interrupted) else error.fix),
        last_durable_step=last_durable_step,
        attempt=attempt,
    )


def _status(error: JobError) -> Literal["partial", "interrupted", "failed"]:
    if isinstance(error, Interrupted):
        return "interrupted"
    return "partial" if isinstance(error, DeadlineReached) and error.published else "failed"


def _again(last_durable_step: int | None) -> str:
    place = "begins anew" if last_durable_step is None else f"goes on from step {last_durable_step}"
    return f"Run the same job again; it {place}."


def to_line(outcome: Outcome) -> str:
    """One JSON object of at most LIMIT_BYTES bytes: a long cause is shortened, never the JSON."""
    line = json.dumps(outcome.to_json(), ensure_ascii=False)
    if len(line.encode()) <= LIMIT_BYTES:
        return line
    return to_line(outcome.model_copy(update={"cause": _shorter(outcome.cause), "fix": outcome.fix[:FIX_LENGTH]}))


def _shorter(text: str) -> str:
    return text.removesuffix(_CUT)[: len(text) * 3 // 4] + _CUT


def write_termination_log(outcome: Outcome, path: Path = TERMINATION_LOG) -> None:
    """For Kubernetes, which mounts the file; elsewhere it does not exist and nothing is written. Where it cannot be
    written, the end of the run stays what it is."""
    with contextlib.suppress(OSError):
        if path.exists():
            path.write_text(to_line(outcome))


def upload_error(error: JobError) -> JobError:
    """A storage failure after training, which is an unfinished upload unless it is a matter of rights or a signal."""
    if isinstance(error, NetworkExhausted):
        return UploadIncomplete(error.cause, error.fix)
    return error
