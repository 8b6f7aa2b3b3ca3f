"""A model or dataset repository on the Hugging Face Hub.

The client finds its token and endpoint (``HF_TOKEN``, ``HF_ENDPOINT``) by itself. It repeats its uploads and listings,
but neither its look-ups nor the commit itself: that is done here.
"""

import hashlib
import logging
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from huggingface_hub import CommitOperationAdd, HfApi, RepoFile, hf_hub_url
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported through __getattr__
    build_hf_headers,
    disable_progress_bars,
    get_session,
    hf_raise_for_status,
)

from job.errors import NetworkExhausted, NotFound, OutputTaken, UploadIncomplete
from job.storage import Snapshot, StoredFile
from job.storage.hub_errors import FAILURES, is_hopeless, job_error
from job.storage.transfer import MANIFEST, disk_error, in_parallel, landing, require_space, settle, sha256_of
from job.uri import HubUri

_WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)  # between the tries of one request; the Hub's own hiccups last seconds
_TIMEOUT_S = 60.0  # without a byte; the client's own default is to wait for ever

ResultT = TypeVar("ResultT")

disable_progress_bars()
logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its warnings repeat signed upload URLs


class HubStore:
    """Files of a repository under the URI's path, at its revision, or at the head of *branch*.

    A snapshot is pinned: later reads and fetches are of its commit. On a *branch*, reads always go to the newest.
    """

    def __init__(self, uri: HubUri, branch: str | None = None) -> None:
        self.uri = str(uri)
        self._uri = uri
        self._id = uri.repo_id
        self._type = uri.repo_type
        self._branch = branch
        self._revision = branch or uri.revision or "main"
        self._prefix = f"{uri.path}/" if uri.path else ""
        self._read_at = self._revision
        self._listed_at = self._revision
        self._prepared = branch is None
        self._api = HfApi()

    def snapshot(self) -> Snapshot:
        commit = self._call(self._head)
        files = self._call(lambda: self._list(commit))
        if not files:
            raise NotFound(f"{self.uri} holds no files.", "Check the path in the URI.")
        self._listed_at = commit
        if self._branch is None:
            self._read_at = commit
        start = len(self._prefix)
        return Snapshot(tuple(StoredFile(file.path[start:], file.size, _identity(file)) for file in files), commit)

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        return self._call(lambda: self._get(path, self._read_at, start, length), path)

    def fetch(self, files: Sequence[StoredFile], folder: Path) -> None:
        staging = folder / f".hub-{self._listed_at[:12]}"  # stays after a failure, for the next try to go on from

        def download(file: StoredFile) -> None:
            target = landing(folder, file, self.uri)
            if not (target.exists() and _is_whole(target, file.size, file.identity)):
                part = self._call(lambda: self._download(file.path, staging), file.path)
                settle(part, target, file, self.uri)

        try:
            require_space(files, folder, self.uri)
            in_parallel(download, files)
        except OSError as error:
            raise disk_error(error, self.uri, writing=True) from error
        shutil.rmtree(staging, ignore_errors=True)

    def probe_write(self) -> bool:
        """Makes a branch and removes it again, which leaves no commit behind; a missing repository is made, private."""
        branch = f"graft-probe-{uuid.uuid4().hex}"
        try:
            self._call(lambda: self._info(None))
        except NotFound:
            self._call(self._make_repository, writing=True)
        self._call(lambda: self._make_branch(branch), writing=True)
        self._call(lambda: self._info(branch))
        self._call(lambda: self._api.delete_branch(self._id, repo_type=self._type, branch=branch), writing=True)
        return True

    def create(self, path: str, data: bytes) -> bool:
        return self._commit_unless_there(path, [CommitOperationAdd(self._prefix + path, data)]) is not None

    def put(self, path: str, data: bytes) -> None:
        self._prepare()
        self._call(
            lambda: self._commit([CommitOperationAdd(self._prefix + path, data)], path, f"graft: {path}", None),
            path,
            writing=True,
        )

    def publish(self, files: Mapping[str, Path], manifest: bytes) -> None:
        additions = [CommitOperationAdd(self._prefix + path, source) for path, source in files.items()]
        additions.append(CommitOperationAdd(self._prefix + MANIFEST, manifest))
        commit = self._commit_unless_there(MANIFEST, additions)
        if commit is None:
            raise OutputTaken(f"{self._place(MANIFEST)} exists already.", "Choose another output.")
        there = {file.path: file for file in self._call(lambda: self._list(commit))}
        in_parallel(lambda path: self._verify(path, files[path], there.get(self._prefix + path)), files)

    def _place(self, path: str) -> str:
        return f"{self.uri}/{path}".rstrip("/")

    def _call(self, act: Callable[[], ResultT], path: str = "", *, writing: bool = False) -> ResultT:
        """*act*, again after each wait for as long as its failure is the network's or the Hub's own."""
        waits = iter(_WAITS_S)
        while True:
            get_session().timeout = _TIMEOUT_S
            try:
                return act()
            except FAILURES as failure:
                error = job_error(failure, self._uri, self._place(path), writing=writing)
                wait = next(waits, None)
                if wait is None or is_hopeless(failure) or not isinstance(error, NetworkExhausted):
                    raise error from failure
            time.sleep(wait)

    def _info(self, revision: str | None) -> str:
        return str(self._api.repo_info(self._id, repo_type=self._type, revision=revision, timeout=_TIMEOUT_S).sha)

    def _head(self) -> str:
        return self._info(self._revision)

    def _list(self, commit: str) -> list[RepoFile]:
        """The files under the URI; where it names one file, paths are relative to its folder from now on."""
        path = self._uri.path
        if path:
            named = self._api.get_paths_info(self._id, path, repo_type=self._type, revision=commit)
            if not named:
                return []
            if isinstance(named[0], RepoFile):
                self._prefix = path[: path.rfind("/") + 1]
                return [named[0]]
        return list(self._tree(commit, path))

    def _tree(self, commit: str, path: str) -> Iterator[RepoFile]:
        """As the client's own listing, but for the time limit, which that one switches off."""
        place = f"/{quote(path, safe='')}" if path else ""
        url = f"{self._api.endpoint}/api/{self._type}s/{self._id}/tree/{commit}{place}?recursive=true"
        while url:
            response = get_session().get(url, headers=build_hf_headers(), timeout=_TIMEOUT_S)
            hf_raise_for_status(response)
            entries = [entry for entry in response.json() if entry["type"] == "file"]
            yield from (RepoFile(**entry) for entry in entries)  # type: ignore[no-untyped-call]
            url = response.links.get("next", {}).get("url", "")

    def _get(self, path: str, revision: str, start: int = 0, length: int | None = None) -> bytes:
        if length == 0:
            return b""
        headers = build_hf_headers(headers={"Accept-Encoding": "identity"})
        if start or length is not None:
            headers["Range"] = f"bytes={start}-{'' if length is None else start + length - 1}"
        url = hf_hub_url(
            self._id, self._prefix + path, repo_type=self._type, revision=revision, endpoint=self._api.endpoint
        )
        # Large files are served by another host; the client drops the token on the way there.
        response = get_session().get(url, headers=headers, follow_redirects=True, timeout=_TIMEOUT_S)
        if response.status_code == 416:  # the range begins at or after the end
            return b""
        hf_raise_for_status(response)
        return bytes(response.content[start if response.status_code == 200 else 0 :][:length])

    def _download(self, path: str, staging: Path) -> Path:
        return Path(
            self._api.hf_hub_download(
                self._id, self._prefix + path, repo_type=self._type, revision=self._listed_at, local_dir=staging
            )
        )

    def _make_repository(self) -> None:
        self._api.create_repo(self._id, repo_type=self._type, private=True, exist_ok=True)

    def _make_branch(self, branch: str) -> None:
        self._api.create_branch(self._id, repo_type=self._type, branch=branch, exist_ok=True)

    def _prepare(self) -> None:
        """The branch that is written to exists afterwards, and reads see what is written."""
        self._read_at = self._revision
        if not self._prepared:
            self._call(lambda: self._make_branch(self._revision), writing=True)
            self._prepared = True

    def _commit(self, additions: list[CommitOperationAdd], path: str, title: str, parent: str | None) -> str:
        try:
            return self._api.create_commit(
                self._id,
                additions,
                repo_type=self._type,
                revision=self._revision,
                parent_commit=parent,
                commit_message=title,
            ).oid
        except ValueError as error:  # a model card the Hub will not have, or a file its storage will not
            raise UploadIncomplete(f"The Hub refuses {self._place(path)}: {str(error)[:300]}") from error

    def _commit_unless_there(self, path: str, additions: list[CommitOperationAdd]) -> str | None:
        """Commit *additions*, one of which makes *path*, and return the commit, or None where *path* exists.

        The commit is known again by its title: it may have been made though its answer was lost, and the client makes
        none at all, and says nothing, if another writer has just committed the same bytes.
        """
        title = f"graft: {path} ({uuid.uuid4().hex})"

        def attempt() -> str | None:
            commit = self._head()
            if (made_by := self._title_of_last_commit(path, commit)) is None:
                commit = self._commit(additions, path, title, commit)
                made_by = self._title_of_last_commit(path, commit)
            return commit if made_by == title else None

        self._prepare()
        return self._call(attempt, path, writing=True)

    def _title_of_last_commit(self, path: str, revision: str) -> str | None:
        """The title of the commit that made *path* what it is, or None where there is no *path*."""
        name = self._prefix + path
        found = self._api.get_paths_info(self._id, name, repo_type=self._type, revision=revision, expand=True)
        return str(found[0].last_commit and found[0].last_commit.title) if found else None

    def _verify(self, path: str, source: Path, stored: RepoFile | None) -> None:
        if stored is None or not _is_whole(source, stored.size, _identity(stored)):
            raise UploadIncomplete(f"{self._place(path)} did not read back as it was written.", "Run the job again.")


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
