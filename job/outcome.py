"""How a run ended, told three times: stdout's last line, the termination log, the output store."""

import contextlib
import json
from pathlib import Path
from typing import Literal

from job.durable import FOLDER as CHECKPOINTS
from job.errors import AdapterRejected, DeadlineReached, Interrupted, JobError, NetworkExhausted, UploadIncomplete
from job.records import Outcome
from job.redact import Redactor

LIMIT_BYTES = 4096  # Kubernetes keeps this much of a termination message
FIX_LENGTH = 500  # characters; what is left of the limit is the cause's
_CUT = " …"
# By phase: what there is to do where all has been trained.
_LEFT = {
    "evaluate": "; on this machine it only judges and uploads",
    "publish": "; on this machine it only uploads",
}
TERMINATION_LOG = Path("/dev/termination-log")


def success(cause: str, attempt: int | None, last_durable_step: int | None = None) -> Outcome:
    return Outcome(
        status="succeeded", code=0, error_class="Success", phase="done", cause=cause, fix="", attempt=attempt,
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
        cause=redact(_as_text(error.cause)),
        fix=redact(_as_text(_fix(error, phase, last_durable_step))),
        last_durable_step=last_durable_step,
        attempt=attempt,
    )


def _as_text(words: str) -> str:
    """*words* with what no UTF-8 can hold in its escaped form: a setting or a file's name can be of any bytes, and JSON
    can hold half a character."""
    return words.encode(errors="backslashreplace").decode()


def _status(error: JobError) -> Literal["partial", "rejected", "interrupted", "failed"]:
    if isinstance(error, Interrupted):
        return "interrupted"
    if isinstance(error, AdapterRejected) and error.published:
        return "rejected"
    return "partial" if isinstance(error, DeadlineReached) and error.published else "failed"


def _fix(error: JobError, phase: str, last_durable_step: int | None) -> str:
    """What to do, with what there is to go on from."""
    if isinstance(error, Interrupted):
        place = "begins anew" if last_durable_step is None else f"goes on from step {last_durable_step}"
        return f"Run the same job again; it {place}{_LEFT.get(phase, '')}."
    if isinstance(error, DeadlineReached) and not error.published and last_durable_step is not None:
        return f"{error.fix} Its newest adapter is in {CHECKPOINTS}/step-{last_durable_step:08d}."
    return error.fix


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
