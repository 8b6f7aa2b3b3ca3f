"""What more than one store needs around a copy: checksums, whole files or none, honest errors of the local disk."""

import errno
import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TypeVar

from job.errors import AccessDenied, BadData, JobError, NetworkExhausted, NotFound, UnsuitableHost
from job.rundir import NO_SPACE, mount_of
from job.storage import StoredFile

MANIFEST = "manifest.json"

_THREADS = 8  # files copied or checked at a time
_BROKEN_DISK = {errno.EIO, errno.ENODEV, errno.ENXIO, errno.ESTALE}

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of the file at *path*."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def landing(folder: Path, file: StoredFile, uri: str) -> Path:
    """Where *file* of the store at *uri* lands in *folder*; its parent exists afterwards.

    Raises:
        BadData: the name would lead out of *folder*.
    """
    relative = PurePosixPath(file.path)
    if relative.is_absolute() or ".." in relative.parts:
        raise BadData(f"{uri} holds a file named {file.path!r}, which leads out of its folder.", "Rename that file.")
    target = folder / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def settle(part: Path, target: Path, file: StoredFile, uri: str) -> None:
    """Give the downloaded *part* its name *target*, if it is as long as *file* was listed to be.

    Raises:
        NetworkExhausted: it is not, so it was cut off, or changed since it was listed.
    """
    if (size := part.stat().st_size) != file.size:
        raise NetworkExhausted(
            f"{uri}/{file.path} came out {size:,} bytes long instead of {file.size:,}.",
            "It was cut off or changed meanwhile; start the job again.",
        )
    part.replace(target)


def require_space(files: Sequence[StoredFile], folder: Path, uri: str) -> None:
    """Create *folder*, and see that *files* will fit into it, before the first byte is fetched.

    Raises:
        UnsuitableHost: they will not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    needed = sum(file.size for file in files if not (folder / file.path).exists())
    if needed > (free := shutil.disk_usage(folder).free):
        raise UnsuitableHost(
            f"{uri} needs {needed / 2**30:,.1f} GiB, but {mount_of(folder)} has {free / 2**30:,.1f} GiB left.",
            "Use a machine with a larger disk, or point JOB_WORK_DIR at one.",
        )


def in_parallel(act: Callable[[ItemT], ResultT], items: Iterable[ItemT]) -> list[ResultT]:
    """*act* on every item, several at a time; the first failure is raised and what has not begun is dropped."""
    with ThreadPoolExecutor(_THREADS) as pool:
        futures = [pool.submit(act, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def disk_errors(uri: str, *, into: Path | None = None) -> Iterator[None]:
    """Turns what the local disk says while files of the store at *uri* are read, or written under *into*, into the
    job's errors."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, uri, into=into) from error


def disk_error(error: OSError, uri: str, *, into: Path | None) -> JobError:
    """The job's name for what the local disk said. A copy that fills the disk names its source, or no file at all."""
    place, reason = Path(error.filename or into or uri), error.strerror or type(error).__name__
    if error.errno in NO_SPACE:
        return UnsuitableHost(
            f"No space left on {mount_of(into or place)} while working on {uri} ({reason}).",
            "Make room there, or point JOB_WORK_DIR, or the output, at a larger disk.",
        )
    if error.errno in _BROKEN_DISK:
        return UnsuitableHost(f"The disk at {mount_of(place)} failed ({reason}).", "Use another machine.")
    if into is None and error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFound(f"{place} does not exist.", "Check the path; inside a container, check the mount.")
    verb = "read" if into is None else "written"
    return AccessDenied(f"{place} cannot be {verb} ({reason}).", "Check the path, its owner and its permissions.")
