"""How a child process of the job says why it failed: a file, because its exit status does not travel through
launchers (75 or 78 becomes 1 under accelerate and torchrun) and its stderr is a mix of many voices."""

import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from job.errors import Bug, JobError, LostPeers, UnsuitableHost, error_for
from job.records import WorkerError
from job.rundir import NO_SPACE, mount_of, read_record, write_json


def run_child(story: Callable[[], None], error_path: Path, rank: int = 0, spare: Path | None = None) -> None:
    """Run *story*; on failure write a `WorkerError` to *error_path* and exit with status 1. *spare* is a file that is
    given up for it on a full disk."""
    try:
        story()
    except Exception as error:  # the boundary of the process: everything is reported, nothing swallowed
        record = describe(error, rank, error_path)
        try:
            write_json(error_path, record)
        except OSError:
            if spare is None:
                raise
            spare.unlink(missing_ok=True)
            write_json(error_path, record)
        traceback.print_exc()
        sys.exit(1)


def describe(error: Exception, rank: int, here: Path | None = None) -> WorkerError:
    """*error* as a record; *here* as for `as_job_error`."""
    job_error = as_job_error(error, here)
    return WorkerError(
        code=job_error.exit_code,
        cause=job_error.cause,
        fix=job_error.fix,
        rank=rank,
        time=time.time(),
        traceback="".join(traceback.format_exception(error)),
        secondary=isinstance(job_error, LostPeers),
    )


def as_job_error(error: Exception, here: Path | None = None) -> JobError:
    """*error* itself if it is a `JobError`, else its class as far as it can be told; a `Bug` when it cannot. *here* is
    on the disk that is meant where a failed write does not name its file."""
    if isinstance(error, JobError):
        return error
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        path = Path(error.filename) if error.filename else here
        place = f"{error.filename or 'JOB_WORK_DIR'} on {mount_of(path)}" if path else "JOB_WORK_DIR"
        return UnsuitableHost(f"No space is left for {place}.", "Use a machine with a larger disk.")
    return Bug(f"{type(error).__name__}: {error}", "Run it again with JOB_DEBUG=1 for the traceback.")


def read_error(path: Path) -> tuple[JobError, WorkerError] | None:
    """The failure that a child left at *path*, as the error to raise here, with its traceback as a note; None when it
    left none."""
    if not path.exists():
        return None
    record = read_record(path, WorkerError)
    error = error_for(record.code)(record.cause, record.fix)
    error.add_note(record.traceback)
    return error, record
