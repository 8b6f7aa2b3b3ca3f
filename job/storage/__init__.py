"""Stores: one small interface over an object store, a Hub repository and a folder.

Paths inside a store are relative to its URI, with forward slashes; where the URI names one file, that file's path is
its name. A 403 is never reported as "not found", and a missing bucket or repository is `NotFound` to a reader but
`AccessDenied` to a writer. Messages repeat no secret and no signed URL. Every failure is a class of `job.errors`,
whatever the backend: `NotFound` (66), `AccessDenied` (77), `NetworkExhausted` (83, after all retries, for uploads
too), `OutputTaken` (73), `UploadIncomplete` (84), `UnsuitableHost` (80: the local disk is full or broken, the clock is
wrong), `BadData` (65: a file name that leads out of its folder) and `BadSpec` (78: an endpoint that is no URL).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from job.uri import FileUri, HubUri, S3Uri, Uri


@dataclass(frozen=True)
class StoredFile:
    """One file of a store: its path, its size in bytes, and an identity that changes with its content (ETag, blob
    id, or modification time in nanoseconds), for cache keys."""

    path: str
    size: int
    identity: str


@dataclass(frozen=True)
class Snapshot:
    """A store's files at one moment. *revision* is the commit on the Hub and None elsewhere; *dangling* are the paths
    of links in a folder that lead nowhere."""

    files: tuple[StoredFile, ...]
    revision: str | None = None
    dangling: tuple[str, ...] = ()


class Store(Protocol):
    """Where a model, a dataset or an output lives."""

    uri: str

    def snapshot(self) -> Snapshot:
        """All files under the URI. A URI that names one file gives that file. On the Hub, unless the store is of a
        branch, reads and fetches are then of this commit until the store is written to.

        Raises:
            NotFound: there is nothing at the URI.
        """

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """*length* bytes of *path* from offset *start*, fewer where the file ends before; to the end when *length* is
        None. Of a store whose URI names one file, take the snapshot first.

        Raises:
            NotFound: no such file.
        """

    def fetch(self, files: Sequence[StoredFile], folder: Path) -> None:
        """Copy *files* of the last snapshot into *folder*, in parallel, keeping their relative paths. Each file
        appears under its name only when it is complete.

        Raises:
            UnsuitableHost: they do not fit on the disk; nothing has been fetched then.
            NetworkExhausted: a file was cut off, or is no longer the one that was listed.
        """

    def probe_write(self) -> bool:
        """Prove write access with a real write, read back and removed again. Makes a missing folder or (private)
        repository, but no bucket. Returns whether the store honours create-if-absent.

        Raises:
            AccessDenied: it cannot be written, or does not exist and cannot be made.
        """

    def create(self, path: str, data: bytes) -> bool:
        """Write *data* to *path* unless it exists. Returns whether this call made it, also if the store's answer was
        lost on the way. Where `probe_write` returned False this is look-then-write, which two writers at the same
        moment can both win."""

    def put(self, path: str, data: bytes) -> None:
        """Write *data* to *path*, replacing what is there."""

    def publish(self, files: Mapping[str, Path], manifest: bytes) -> None:
        """Make *files* (path in the store -> local file) appear, read each back by size and checksum, then create
        ``manifest.json``. Without its manifest a result does not exist.

        Raises:
            OutputTaken: a manifest is there already.
            UploadIncomplete: a file did not read back as it was written.
        """

    def replace(self, folder: str, files: Mapping[str, Path], manifest: bytes) -> None:
        """Make *files* (name -> local file) appear under *folder*, in place of what was there, each read back by size
        and checksum, and then its ``manifest.json``. Cut short anywhere, the folder has no manifest, or the old one
        with files that it does not vouch for.

        Raises:
            UploadIncomplete: a file did not read back as it was written.
        """

    def delete(self, folder: str) -> None:
        """Remove everything under *folder*, its ``manifest.json`` first; nothing there is no error.

        Raises:
            AccessDenied: the store does not let it be removed.
        """

    def abort_uploads(self) -> None:
        """End the uploads in parts that killed processes left open under the URI: a store keeps their parts, unseen,
        and bills them. Only for the one writer of the place, while it uploads nothing. A store that has no such
        uploads, or does not let them be listed or ended, is left as it is."""


def open_store(uri: Uri, *, branch: str | None = None) -> Store:
    """The store at *uri*; *branch* picks a branch of a Hub repository and means nothing elsewhere.

    No network traffic happens here; the backend's SDK is imported only for its own scheme.
    """
    match uri:
        case S3Uri():
            from job.storage.s3 import S3Store

            return S3Store(uri)
        case HubUri():
            from job.storage.hub import HubStore

            return HubStore(uri, branch=branch)
        case FileUri():
            from job.storage.local import LocalStore

            return LocalStore(uri)
