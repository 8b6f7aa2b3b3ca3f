"""A model or dataset repository on the Hugging Face Hub.

The client finds its token and endpoint (``HF_TOKEN``, ``HF_ENDPOINT``) by itself. It repeats its uploads and listings,
but neither its look-ups nor the commit itself: that is done here.
"""

import hashlib
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, RepoFile

from job.errors import NetworkExhausted, NotFound, OutputTaken, UploadIncomplete
from job.storage import Snapshot, StoredFile
from job.storage.hub_errors import FAILURES, is_hopeless, job_error
from job.storage.hub_repo import HubRepository, Operation, limit_waiting
from job.storage.patience import Patience
from job.storage.transfer import MANIFEST, disk_errors, in_parallel, landing, require_space, settle, sha256_of
from job.uri import HubUri

ResultT = TypeVar("ResultT")


class HubStore:
    """Files of a repository under the URI's path, at its revision, or at the head of *branch*.

    A snapshot is pinned: later reads and fetches are of its commit. On a *branch*, reads always go to the newest.
    """

    def __init__(self, uri: HubUri, branch: str | None = None) -> None:
        self.uri = str(uri)
        self._uri = uri
        self._branch = branch
        self._revision = branch or uri.revision or "main"
        self._repo = HubRepository(uri, self._revision)
        self._prefix = f"{uri.path}/" if uri.path else ""
        self._read_at = self._revision
        self._listed_at = self._revision
        self._prepared = branch is None

    def snapshot(self) -> Snapshot:
        commit = self._call(self._repo.head)
        files = self._call(lambda: self._list(commit))
        if not files:
            raise NotFound(f"{self.uri} holds no files.", "Check the path in the URI.")
        self._listed_at = commit
        if self._branch is None:
            self._read_at = commit
        start = len(self._prefix)
        return Snapshot(tuple(StoredFile(file.path[start:], file.size, _identity(file)) for file in files), commit)

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        return self._call(lambda: self._repo.get(self._prefix + path, self._read_at, start, length), path)

    def fetch(self, files: Sequence[StoredFile], folder: Path) -> None:
        staging = folder / f".hub-{self._listed_at[:12]}"  # stays after a failure, for the next try to go on from

        def download(file: StoredFile) -> None:
            target = landing(folder, file, self.uri)
            if not (target.exists() and _is_whole(target, file.size, file.identity)):
                part = self._call(lambda: self._download(file.path, staging), file.path, into=staging)
                settle(part, target, file, self.uri)

        with disk_errors(self.uri, into=folder):
            require_space(files, folder, self.uri)
            in_parallel(download, files)
        shutil.rmtree(staging, ignore_errors=True)

    def probe_write(self) -> bool:
        """Makes a branch and removes it again, which leaves no commit behind; a missing repository is made, private."""
        branch = f"graft-probe-{uuid.uuid4().hex}"
        try:
            self._call(lambda: self._repo.commit_of(None))
        except NotFound:
            self._call(self._repo.make, writing=True)
        self._call(lambda: self._repo.make_branch(branch), writing=True)
        self._call(lambda: self._repo.commit_of(branch))
        self._call(lambda: self._repo.delete_branch(branch), writing=True)
        return True

    def create(self, path: str, data: bytes) -> bool:
        return self._commit_unless_there(path, self._additions({path: data})) is not None

    def put(self, path: str, data: bytes) -> None:
        self._prepare()
        self._call(lambda: self._commit(self._additions({path: data}), path), path, writing=True)

    def publish(self, files: Mapping[str, Path], manifest: bytes) -> None:
        commit = self._commit_unless_there(MANIFEST, self._additions({**files, MANIFEST: manifest}))
        if commit is None:
            raise OutputTaken(f"{self._place(MANIFEST)} exists already.", "Choose another output.")
        self._verify(files, self._call(lambda: self._list(commit)))

    def replace(self, folder: str, files: Mapping[str, Path], manifest: bytes) -> None:
        named = {f"{folder}/{name}": source for name, source in files.items()}
        wanted: dict[str, Path | bytes] = {**named, f"{folder}/{MANIFEST}": manifest}

        def attempt() -> str:
            there = self._repo.tree(self._prefix + folder, self._repo.head())
            stale = {file.path for file in there} - {self._prefix + path for path in wanted}
            # Made anew each time: what the client has found out about an addition it does not ask again, and only if
            # it asks does it see that a commit whose answer was lost has been made.
            return self._commit([*map(CommitOperationDelete, sorted(stale)), *self._additions(wanted)], folder)

        self._prepare()
        commit = self._call(attempt, folder, writing=True)
        self._verify(named, self._call(lambda: self._repo.tree(self._prefix + folder, commit)))

    def delete(self, folder: str) -> None:
        def attempt() -> None:
            if self._repo.tree(self._prefix + folder, self._repo.head()):
                self._commit([CommitOperationDelete(f"{self._prefix}{folder}/", is_folder=True)], folder)

        self._prepare()
        self._call(attempt, folder, writing=True)

    def abort_uploads(self) -> None:
        """Nothing: large files without a commit are the Hub's to forget."""

    def _place(self, path: str) -> str:
        return f"{self.uri}/{path}".rstrip("/")

    def _call(
        self, act: Callable[[], ResultT], path: str = "", *, writing: bool = False, into: Path | None = None
    ) -> ResultT:
        """*act*, which may write files *into* a folder, again after each wait for as long as its failure is the
        network's or the Hub's own."""
        patience = Patience()
        while True:
            limit_waiting()
            try:
                return act()
            except FAILURES as failure:
                error = job_error(failure, self._uri, self._place(path), writing=writing, into=into)
                if is_hopeless(failure) or not isinstance(error, NetworkExhausted):
                    raise error from failure
                if (wait := patience.wait_s()) is None:
                    raise error from failure
            time.sleep(wait)

    def _list(self, commit: str) -> list[RepoFile]:
        """The files under the URI; where it names one file, paths are relative to its folder from now on."""
        path = self._uri.path
        if path and (file := self._repo.entry(path, commit)):
            self._prefix = path[: path.rfind("/") + 1]
            return [file]
        return self._repo.tree(path, commit)

    def _download(self, path: str, staging: Path) -> Path:
        return self._repo.download(self._prefix + path, self._listed_at, staging)

    def _additions(self, files: Mapping[str, Path | bytes]) -> list[CommitOperationAdd]:
        return [CommitOperationAdd(self._prefix + path, source) for path, source in files.items()]

    def _prepare(self) -> None:
        """The branch that is written to exists afterwards, and reads see what is written."""
        self._read_at = self._revision
        if not self._prepared:
            self._call(lambda: self._repo.make_branch(self._revision), writing=True)
            self._prepared = True

    def _commit(
        self, operations: Sequence[Operation], path: str, title: str | None = None, parent: str | None = None
    ) -> str:
        try:
            return self._repo.commit(operations, title or f"graft: {path}", parent)
        except ValueError as error:
            raise UploadIncomplete(f"The Hub refuses {self._place(path)}: {str(error)[:300]}") from error

    def _commit_unless_there(self, path: str, additions: list[CommitOperationAdd]) -> str | None:
        """Commit *additions*, one of which makes *path*, and return the commit, or None where *path* exists.

        The commit is known again by its title: it may have been made though its answer was lost, and the client makes
        none at all, and says nothing, if another writer has just committed the same bytes.
        """
        title, name = f"graft: {path} ({uuid.uuid4().hex})", self._prefix + path

        def attempt() -> str | None:
            commit = self._repo.head()
            if (made_by := self._repo.title_of_last_commit(name, commit)) is None:
                commit = self._commit(additions, path, title, commit)
                made_by = self._repo.title_of_last_commit(name, commit)
            return commit if made_by == title else None

        self._prepare()
        return self._call(attempt, path, writing=True)

    def _verify(self, files: Mapping[str, Path], stored: Iterable[RepoFile]) -> None:
        """See that *files* are *stored* as they are here."""
        there = {file.path: file for file in stored}

        def verify(path: str) -> None:
            file = there.get(self._prefix + path)
            if file is None or not _is_whole(files[path], file.size, _identity(file)):
                raise UploadIncomplete(f"{self._place(path)} did not read back as it was written.", "Run it again.")

        with disk_errors(self.uri):
            in_parallel(verify, files)


def _identity(file: RepoFile) -> str:
    """A SHA-256 in large file storage, the SHA-1 of a git blob else."""
    return file.lfs.sha256 if file.lfs else file.blob_id


def _is_whole(path: Path, size: int, identity: str) -> bool:
    """Whether the local file at *path* has that size in bytes and that `_identity`."""
    if path.stat().st_size != size:
        return False
    return identity == (sha256_of(path) if len(identity) == 64 else _git_blob(path))


def _git_blob(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0%b" % (len(data), data), usedforsecurity=False).hexdigest()
