"""A folder on this machine, or a volume mounted into it."""

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from job.errors import NotFound, OutputTaken, UploadIncomplete
from job.storage import Snapshot, StoredFile
from job.storage.transfer import MANIFEST, disk_errors, in_parallel, landing, require_space, settle, sha256_of
from job.uri import FileUri

_TEMPORARY = ".graft-tmp-"  # files that are being written; never part of a snapshot
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK}  # what file systems without hard links say


class LocalStore:
    """Files under a folder. Symbolic links to files are read through, links to folders are not entered."""

    def __init__(self, uri: FileUri) -> None:
        self.uri = str(uri)
        self._root = uri.path
        self._links = True  # until this file system turns out to have none

    def snapshot(self) -> Snapshot:
        with self._reading():
            paths = [self._root] if self._root.is_file() else sorted(_walk(self._root))
            files = tuple(file for path in paths if (file := self._describe(path)))
        if not files:
            raise NotFound(f"{self.uri} holds no files.", "Check the path; inside a container, check the mount.")
        links = (path for path in paths if path.is_symlink() and not path.exists())
        return Snapshot(files, dangling=tuple(path.relative_to(self._root).as_posix() for path in links))

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        with self._reading(), self._locate(path).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def fetch(self, files: Sequence[StoredFile], folder: Path) -> None:
        def copy(file: StoredFile) -> None:
            source, target = self._locate(file.path), landing(folder, file, self.uri)
            with self._reading():
                source.open("rb").close()
            with _temporary(target) as part:
                shutil.copyfile(source, part)
                settle(part, target, file, self.uri)

        with disk_errors(self.uri, into=folder):
            require_space(files, folder, self.uri)
            in_parallel(copy, files)

    def probe_write(self) -> bool:
        probe = self._root / f"{_TEMPORARY}probe-{uuid.uuid4().hex}"
        with self._writing():
            try:
                self._create(probe, probe.name.encode())
                if probe.read_bytes() != probe.name.encode():
                    raise OSError(errno.EIO, "read back other bytes than were written", str(probe))
            finally:
                probe.unlink(missing_ok=True)
        return self._links

    def create(self, path: str, data: bytes) -> bool:
        with self._writing():
            return self._create(self._root / path, data)

    def put(self, path: str, data: bytes) -> None:
        with self._writing():
            self._put(self._root / path, data)

    def publish(self, files: Mapping[str, Path], manifest: bytes) -> None:
        with self._writing():
            if (self._root / MANIFEST).exists():
                raise OutputTaken(f"{self.uri}/{MANIFEST} exists already.", "Choose another output.")
            self._push(self._root, files)
            if not self._create(self._root / MANIFEST, manifest):
                raise OutputTaken(f"{self.uri}/{MANIFEST} was made by another run.", "Choose another output.")

    def replace(self, folder: str, files: Mapping[str, Path], manifest: bytes) -> None:
        self.delete(folder)
        with self._writing():
            self._push(self._root / folder, files)
            self._put(self._root / folder / MANIFEST, manifest)

    def delete(self, folder: str) -> None:
        place = self._root / folder
        with self._writing():
            if not place.exists():
                return
            (place / MANIFEST).unlink(missing_ok=True)
            _flush(place)
            shutil.rmtree(place)
            _flush(place.parent)

    def abort_uploads(self) -> None:
        """Nothing: what a killed process leaves here is in the folders that `delete` removes."""

    def _reading(self) -> AbstractContextManager[None]:
        return disk_errors(self.uri)

    def _writing(self) -> AbstractContextManager[None]:
        return disk_errors(self.uri, into=self._root)

    def _locate(self, path: str) -> Path:
        return self._root if path == self._root.name and self._root.is_file() else self._root / path

    def _describe(self, path: Path) -> StoredFile | None:
        """None: it is no file, leads nowhere, or has just been removed."""
        name = path.name if path == self._root else path.relative_to(self._root).as_posix()
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return StoredFile(name, status.st_size, str(status.st_mtime_ns))

    def _create(self, target: Path, data: bytes) -> bool:
        """A hard link, unlike a rename, fails where its name is taken, and the file behind it is whole already."""
        with _temporary(target) as part:
            _write(part, data)
            try:
                target.hardlink_to(part)
            except FileExistsError:
                return part.stat().st_nlink > 1  # NFS repeats a request whose answer was lost: the link is ours
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                self._links = False
                return self._create_unless_seen(part, target)
            _flush(target.parent)
        return True

    def _create_unless_seen(self, part: Path, target: Path) -> bool:
        if target.exists():
            return False
        part.replace(target)
        _flush(target.parent)
        return True

    def _put(self, target: Path, data: bytes) -> None:
        with _temporary(target) as part:
            _write(part, data)
            part.replace(target)
            _flush(target.parent)

    def _push(self, folder: Path, files: Mapping[str, Path]) -> None:
        """Copy *files* into *folder* and read them back."""
        for name, source in files.items():
            self._copy_in(source, folder / name)
        for name, source in files.items():
            if sha256_of(folder / name) != sha256_of(source):
                raise UploadIncomplete(f"{folder / name} read back other bytes than {source}.", "Run it again.")

    def _copy_in(self, source: Path, target: Path) -> None:
        with _temporary(target) as part:
            shutil.copyfile(source, part)
            _flush(part)
            part.replace(target)
            _flush(target.parent)


def _walk(root: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise error

    for folder, _, names in os.walk(root, onerror=refuse):
        for name in names:
            if not name.startswith(_TEMPORARY):
                yield Path(folder, name)


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A free name beside *target*, in a folder that exists; what is left under it goes away."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.parent / f"{_TEMPORARY}{uuid.uuid4().hex}"
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    _flush(path)


def _flush(path: Path) -> None:
    """See that a file's bytes, or a folder's names, are on the disk and not only in memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
