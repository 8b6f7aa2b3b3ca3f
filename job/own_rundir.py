"""The RunDir of a run on this machine: one process has it, and finds there what an earlier one has left complete."""

import contextlib
import fcntl
import shutil
from collections.abc import Iterator

from job.errors import BadSpec, OutputTaken
from job.rundir import RunDir, read_record
from job.spec import JobSpec

_SPARE_BYTES = 2**18  # for the last words of a run whose disk is full: errors, exits, lines of the log


def is_trained(run_dir: RunDir, spec: JobSpec) -> bool:
    """Whether an earlier attempt on this machine left the complete result of this very job, so that only its upload is
    left."""
    if not (run_dir.metrics.exists() and run_dir.spec.exists()):
        return False
    try:
        return read_record(run_dir.spec, JobSpec).fingerprint == spec.fingerprint
    except ValueError:  # another version of this job wrote it
        return False


@contextlib.contextmanager
def exclusive(run_dir: RunDir, spec: JobSpec) -> Iterator[None]:
    """A RunDir that no other process of this machine uses, empty unless only its upload is left.

    Raises:
        OutputTaken: another process does.
        BadSpec: it cannot be made.
    """
    root = run_dir.root
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        lock = root.with_suffix(".lock").open("w")
    except OSError as error:
        raise BadSpec(
            f"JOB_WORK_DIR={spec.work_dir} cannot be written ({error.strerror}).", "Name a writable folder."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            place = spec.output_uri[0]
            raise OutputTaken(f"Another process here works on JOB_OUTPUT_URI={place}.", "Let it end.") from error
        if not is_trained(run_dir, spec):
            shutil.rmtree(root, ignore_errors=True)
            run_dir.errors.mkdir(parents=True)
            run_dir.spare.write_bytes(bytes(_SPARE_BYTES))
        yield
