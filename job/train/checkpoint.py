"""What makes a checkpoint of the Trainer's one that can be relied on: a last file that vouches for the others, a copy
that waits to be pushed, and a disk that is left in order when it is full."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from job.checkpoints import LAYOUT, by_step
from job.errors import JobError, UnsuitableHost
from job.outbox import post, trim
from job.records import Layout
from job.rundir import NO_SPACE, mount_of, remove_whole, write_json
from job.train.save_pace import WAITING

# Checkpoints kept on the disk of this machine: the newest, and the one before in case it cannot be read.
KEPT = 2
# Less than this is a full disk: what could not be written is removed by the library or left behind half.
FULL_BYTES = 2**20


def seal(checkpoint: Path, layout: Layout, outgoing: Path) -> None:
    """Vouch for *checkpoint*, which all ranks have written and the disk holds, have it wait at *outgoing* to be pushed,
    and remove those that it replaces, here and there."""
    for script in checkpoint.glob("*.py"):  # DeepSpeed's own, to convert it; what is published holds no code
        script.unlink()
    write_json(checkpoint / LAYOUT, layout)
    post(checkpoint, outgoing)
    trim(outgoing.parent, WAITING)
    whole = [path for path in by_step(checkpoint.parent) if (path / LAYOUT).exists()]
    for path in by_step(checkpoint.parent):
        if path not in whole[:KEPT]:
            remove_whole(path)


@contextlib.contextmanager
def full_disk_told(checkpoint: Path) -> Iterator[None]:
    """While *checkpoint* is written.

    Raises:
        UnsuitableHost: its disk is full. safetensors, torch and DeepSpeed each say so in their own words and classes,
            torch without the word. What was written of it is gone, so that there is room to tell of it.
    """
    try:
        yield
    except JobError:
        raise
    except Exception as error:
        if not _is_full(error, checkpoint):
            raise
        shutil.rmtree(checkpoint, ignore_errors=True)
        raise UnsuitableHost(
            f"The disk of {mount_of(checkpoint)} is full: {checkpoint.name} does not fit.",
            "Give JOB_WORK_DIR more space; the checkpoint before it is whole.",
        ) from error


def _is_full(error: Exception, checkpoint: Path) -> bool:
    told = any(os.strerror(number) in str(error) for number in NO_SPACE)
    return told or shutil.disk_usage(checkpoint.parent).free < FULL_BYTES
