"""A repository of the Hub as its client reaches it: each method is what it takes to do one thing once."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported through __getattr__
    build_hf_headers,
    disable_progress_bars,
    get_session,
    hf_raise_for_status,
)

from job.uri import HubUri

TIMEOUT_S = 30.0  # without a byte; the client's own default is to wait for ever

Operation = CommitOperationAdd | CommitOperationDelete

disable_progress_bars()
logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its warnings repeat signed upload URLs


def limit_waiting() -> None:
    """Give a time limit to those of the client's requests that take none: in its session, which it now and then makes
    anew."""
    get_session().timeout = TIMEOUT_S


class HubRepository:
    """Paths are from the root of the repository; *revision* is what is written to."""

    def __init__(self, uri: HubUri, revision: str) -> None:
        self._id = uri.repo_id
        self._type = uri.repo_type
        self._revision = revision
        self._api = HfApi()

    def commit_of(self, revision: str | None) -> str:
        """The commit that *revision* is at, None for the default branch."""
        return str(self._api.repo_info(self._id, repo_type=self._type, revision=revision, timeout=TIMEOUT_S).sha)

    def head(self) -> str:
        return self.commit_of(self._revision)

    def entry(self, path: str, commit: str) -> RepoFile | None:
        """The file at *path*, or None where there is none."""
        found = self._api.get_paths_info(self._id, path, repo_type=self._type, revision=commit)
        return found[0] if found and isinstance(found[0], RepoFile) else None

    def tree(self, folder: str, commit: str) -> list[RepoFile]:
        """All files under *folder*, empty for the root; none where there is no such folder."""
        try:
            return list(self._pages(folder, commit))
        except EntryNotFoundError:
            return []

    def _pages(self, folder: str, commit: str) -> Iterator[RepoFile]:
        """As the client's own listing, but for the time limit, which that one switches off."""
        place = f"/{quote(folder, safe='')}" if folder else ""
        url = f"{self._api.endpoint}/api/{self._type}s/{self._id}/tree/{commit}{place}?recursive=true"
        while url:
            response = get_session().get(url, headers=build_hf_headers(), timeout=TIMEOUT_S)
            hf_raise_for_status(response)
            entries = [entry for entry in response.json() if entry["type"] == "file"]
            yield from (RepoFile(**entry) for entry in entries)  # type: ignore[no-untyped-call]
            url = response.links.get("next", {}).get("url", "")

    def get(self, path: str, revision: str, start: int, length: int | None) -> bytes:
        if length == 0:
            return b""
        headers = build_hf_headers(headers={"Accept-Encoding": "identity"})
        if start or length is not None:
            headers["Range"] = f"bytes={start}-{'' if length is None else start + length - 1}"
        url = hf_hub_url(self._id, path, repo_type=self._type, revision=revision, endpoint=self._api.endpoint)
        # Large files are served by another host; the client drops the token on the way there.
        response = get_session().get(url, headers=headers, follow_redirects=True, timeout=TIMEOUT_S)
        if response.status_code == 416:  # the range begins at or after the end
            return b""
        hf_raise_for_status(response)
        return bytes(response.content[start if response.status_code == 200 else 0 :][:length])

    def download(self, path: str, commit: str, staging: Path) -> Path:
        return Path(self._api.hf_hub_download(self._id, path, repo_type=self._type, revision=commit, local_dir=staging))

    def make(self) -> None:
        self._api.create_repo(self._id, repo_type=self._type, private=True, exist_ok=True)

    def make_branch(self, branch: str) -> None:
        self._api.create_branch(self._id, repo_type=self._type, branch=branch, exist_ok=True)

    def delete_branch(self, branch: str) -> None:
        self._api.delete_branch(self._id, repo_type=self._type, branch=branch)

    def commit(self, operations: Sequence[Operation], title: str, parent: str | None = None) -> str:
        """The commit made, or the head where *operations* change nothing: the client makes none then.

        Raises:
            ValueError: a model card the Hub will not have, or a file its storage will not.
        """
        return self._api.create_commit(
            self._id,
            list(operations),
            repo_type=self._type,
            revision=self._revision,
            parent_commit=parent,
            commit_message=title,
        ).oid

    def title_of_last_commit(self, path: str, revision: str) -> str | None:
        """The title of the commit that made *path* what it is, or None where there is no *path*."""
        found = self._api.get_paths_info(self._id, path, repo_type=self._type, revision=revision, expand=True)
        return str(found[0].last_commit and found[0].last_commit.title) if found else None
