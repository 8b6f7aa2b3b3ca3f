"""Every local path that two processes share, and the one way to write them."""

import contextlib
import errno
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

# EFBIG too: a limit on the size of a file (`ulimit -f`, FAT's 4 GiB) is a place too small, and no bug of ours.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

RecordT = TypeVar("RecordT", bound=BaseModel)


class RunDir:
    """``<work_dir>/runs/<id>``: the files of one run on this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.spec = root / "spec.json"
        self.plan = root / "plan.json"
        self.decided = root / "decided.json"
        self.train_task = root / "train_task.json"
        self.train_result = root / "train_result.json"
        self.errors = root / "errors"
        self.stop = root / "stop"
        self.links = root / "links"
        self.log = root / "log.jsonl"
        self.worker_log = root / "worker.log"
        self.adapter = root / "adapter"
        self.metrics = root / "metrics.json"  # only of a result that is complete
        self.partial_metrics = root / "partial_metrics.json"  # of one that is no success
        self.made = root / "made.json"  # what has been trained, and is yet to be judged
        self.proof_logits = root / "proof_logits.safetensors"  # of the trained model in memory
        self.evaluate_task = root / "evaluate_task.json"
        self.evaluate_log = root / "evaluate.log"
        self.evaluate_error = root / "evaluate_error.json"
        self.judgement = root / "judgement.json"
        self.dataset_report = root / "dataset_report.json"
        self.report = root / "report.html"
        self.tensorboard = root / "tensorboard"
        self.extensions = root / "torch_extensions"
        self.checkpoints = root / "checkpoints"
        self.spare = root / "spare"
        self.outbox = root / "outbox"
        self.sending = root / "sending"
        self.pushed = root / "pushed.json"

    def error(self, rank: int) -> Path:
        """Why a rank failed."""
        return self.errors / f"rank{rank}.json"

    def beat(self, rank: int) -> Path:
        """A rank's sign of life: its time of modification moves. It holds the process id."""
        return self.root / "beats" / f"rank{rank}"

    def exit(self, rank: int) -> Path:
        """How the process of a rank ended."""
        return self.root / "exits" / f"rank{rank}.json"

    def stack(self, rank: int) -> Path:
        """Where each thread of a rank stood when it was asked."""
        return self.root / "stacks" / f"rank{rank}.txt"

    def tracker_error(self, name: str) -> Path:
        """Why the tracker called *name* failed."""
        return self.root / f"{name}_error.json"

    def outgoing(self, step: int) -> Path:
        """A complete checkpoint that waits to be pushed."""
        return self.outbox / f"step-{step:08d}"


def mount_of(path: Path) -> Path:
    """The mount point that *path*, which need not exist, lies on."""
    resolved = path.absolute()
    return next(place for place in (resolved, *resolved.parents) if place.is_mount())


def write_bytes(path: Path, data: bytes) -> None:
    """Write *data* under a temporary name, flush it to the disk, then rename: a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 (the temporary is a plain string)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def flush_files(folder: Path) -> None:
    """Have the disk hold every file under *folder*, so that after a power cut what vouches for them does not stand
    alone."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def remove_whole(folder: Path) -> None:
    """Remove *folder*, if it is there, so that not even a kill in between leaves a part of it under its name."""
    doomed = folder.with_name(f".{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def write_json(path: Path, value: BaseModel | dict[str, Any]) -> None:
    """Write a record or a plain mapping as JSON."""
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    write_bytes(path, json.dumps(data, ensure_ascii=False, indent=1).encode())


def read_record(path: Path, kind: type[RecordT]) -> RecordT:
    """The record in *path*.

    Raises:
        FileNotFoundError: the process that writes it has not.
        pydantic.ValidationError: it is not a *kind*.
    """
    return kind.model_validate_json(path.read_bytes())
