"""Complete checkpoints that wait to be pushed. Workers put them here and the pusher takes them out, each by one rename:
at no moment, that of a kill included, can a part be taken for the whole.

::

    outbox/step-00000200/   waits
    sending/step-00000150/  is on its way
"""

import os
import shutil
from pathlib import Path

from job.checkpoints import LAYOUT, superfluous
from job.records import Layout
from job.rundir import RunDir, read_record, remove_whole


def post(checkpoint: Path, outgoing: Path) -> None:
    """Have *checkpoint* wait at *outgoing*: by hard links, so that it takes no time and no space, and stays whole when
    the checkpoint is removed."""
    temporary = outgoing.with_name(f".new-{outgoing.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    outgoing.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(checkpoint, temporary, copy_function=_link)
    remove_whole(outgoing)  # of the same step, from before it was trained again
    temporary.rename(outgoing)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # this file system has none
        shutil.copyfile(source, target)


def waiting(outbox: Path) -> list[Path]:
    """What waits in *outbox*, the newest first."""
    return sorted(outbox.glob("step-*"), reverse=True)


def layout_of(folder: Path) -> Layout | None:
    """None: it is gone. Whoever else looks after the outbox may have dropped it."""
    try:
        return read_record(folder / LAYOUT, Layout)
    except FileNotFoundError:
        return None


def trim(outbox: Path, limit: int) -> None:
    """Drop what waits in vain behind a slow store: all but the *limit* newest and the best by evaluation loss."""
    layouts = [layout for folder in waiting(outbox) if (layout := layout_of(folder))]
    for step in superfluous(layouts, limit):
        remove_whole(outbox / f"step-{step:08d}")


def take(folder: Path, sending: Path) -> Path | None:
    """*folder* moved to *sending*, where nobody drops it; None: it was dropped before."""
    sending.mkdir(exist_ok=True)
    try:
        return folder.rename(sending / folder.name)
    except FileNotFoundError:
        return None


def put_back(run_dir: RunDir) -> None:
    """Have what could not be sent wait again, unless its step has been saved anew meanwhile."""
    for folder in waiting(run_dir.sending):
        if (place := run_dir.outbox / folder.name).exists():
            remove_whole(folder)
        else:
            folder.rename(place)


def restore(run_dir: RunDir) -> None:
    """After an attempt that may have been killed: what it was sending waits again, and nothing half is left."""
    for place in (run_dir.checkpoints, run_dir.outbox, run_dir.sending):
        for half in place.glob(".*"):
            shutil.rmtree(half, ignore_errors=True)
    put_back(run_dir)
