"""The RunDir of a run on this machine: one process has it, and finds there what an earlier one has left complete."""

import fcntl
import hashlib
import shutil
import time
from typing import IO

from job.errors import BadSpec, OutputTaken
from job.processes import POLL_S, StopRequest
from job.rundir import RunDir, read_record
from job.spec import JobSpec

_SPARE_BYTES = 2**18  # for the last words of a run whose disk is full: errors, exits, lines of the log
_PATIENCE_S = 60.0  # for an attempt that is over as far as the output knows, and leaves its last files there


def find_run_dir(spec: JobSpec) -> RunDir:
    """The place on this machine for whatever works on the first output of *spec*."""
    name = hashlib.sha256(spec.output_uri[0].encode()).hexdigest()[:16]
    return RunDir(spec.work_dir.absolute() / "runs" / name)


def is_trained(run_dir: RunDir, spec: JobSpec) -> bool:
    """Whether an earlier attempt on this machine left the complete result of this very job, so that only its upload is
    left."""
    return run_dir.metrics.exists() and _is_of(run_dir, spec)


def is_unjudged(run_dir: RunDir, spec: JobSpec) -> bool:
    """Whether an earlier attempt on this machine has trained this very job to its end, and its adapter is yet to be
    judged."""
    return run_dir.made.exists() and _is_of(run_dir, spec)


def _is_of(run_dir: RunDir, spec: JobSpec) -> bool:
    """Whether what lies in *run_dir* is of this very job."""
    try:
        return read_record(run_dir.spec, JobSpec).fingerprint == spec.fingerprint
    except (FileNotFoundError, ValueError):  # nothing does, or another version of this job wrote it
        return False


def open_lock(run_dir: RunDir, spec: JobSpec) -> IO[str]:
    """The file to lock for *run_dir*, beside it.

    Raises:
        BadSpec: it cannot be made.
    """
    try:
        run_dir.root.parent.mkdir(parents=True, exist_ok=True)
        return run_dir.root.with_suffix(".lock").open("w")
    except OSError as error:
        raise BadSpec(
            f"JOB_WORK_DIR={spec.work_dir} cannot be written ({error.strerror}).", "Name a writable folder."
        ) from error


def hold(lock: IO[str], spec: JobSpec, stop: StopRequest) -> None:
    """Have no other process of this machine use the RunDir of *lock* until that is closed. One that does is waited for.

    Raises:
        OutputTaken: it goes on using it.
        Interrupted: a signal arrived.
    """
    end = time.monotonic() + _PATIENCE_S
    while not _locked(lock):
        stop.check()
        if time.monotonic() >= end:
            place = spec.output_uri[0]
            raise OutputTaken(f"Another process here works on JOB_OUTPUT_URI={place}.", "Let it end.")
        time.sleep(POLL_S)


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def clear(run_dir: RunDir, spec: JobSpec) -> None:
    """Empty *run_dir*, but for what this very job has left there to go on from: the checkpoints and what waits to be
    pushed, or the whole of a result that has only to be judged and published."""
    if is_trained(run_dir, spec) or is_unjudged(run_dir, spec):
        return
    kept = set()
    if _is_of(run_dir, spec):
        kept = {run_dir.spec, run_dir.decided, run_dir.checkpoints, run_dir.outbox, run_dir.sending}
    run_dir.root.mkdir(exist_ok=True)
    # The spec first, which says whose the rest is: after a kill in between, that is nobody's.
    for path in sorted(run_dir.root.iterdir(), key=lambda path: path != run_dir.spec):
        if path in kept:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    for folder in (run_dir.errors, run_dir.sending):  # which a full disk may refuse later
        folder.mkdir(exist_ok=True)
    run_dir.spare.write_bytes(bytes(_SPARE_BYTES))
