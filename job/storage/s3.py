"""An object store that speaks S3.

The SDK finds credentials, region and endpoint (``AWS_*``) by itself. Uploads carry a full-object CRC-64/NVME computed
from the local file, so the store refuses damaged bytes, and what it reports afterwards is compared with it once more.
With ``AWS_REQUEST_CHECKSUM_CALCULATION=when_required``, for stores that know no checksums, files are downloaded and
hashed instead.
"""

import io
import logging
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from job.errors import AccessDenied, NotFound, OutputTaken, UploadIncomplete
from job.storage import Snapshot, StoredFile
from job.storage.s3_client import client
from job.storage.s3_errors import job_errors, status_of
from job.storage.s3_transfers import Listed, crc64, crc64_of_file, finish, open_uploads, reread, transfer_manager
from job.storage.transfer import MANIFEST, disk_errors, in_parallel, landing, require_space, settle
from job.uri import S3Uri

_WRITER = "graft-writer"  # metadata by which a creator knows its own object again

_log = logging.getLogger(__name__)


class S3Store:
    """Objects under a prefix, which ends at a ``/``: ``s3://b/data`` does not mean ``s3://b/data2``."""

    def __init__(self, uri: S3Uri) -> None:
        self.uri = str(uri)
        self._bucket = uri.bucket
        self._key = uri.key
        self._prefix = f"{uri.key}/" if uri.key else ""
        self._listed: Mapping[str, StoredFile] = {}
        self._conditional = True  # until the store turns out not to honour If-None-Match

    def snapshot(self) -> Snapshot:
        with self._errors():
            try:
                files = self._list() or self._single()
            except ClientError as error:
                files = self._single_unless_refused() if status_of(error) == 403 else []
                if not files:
                    raise
        if not files:
            raise NotFound(f"{self.uri} holds no objects.", "Check the bucket and the key.")
        self._listed = {file.path: file for file in files}
        return Snapshot(tuple(files))

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        last = "" if length is None else start + length - 1
        span = {} if start == 0 and length is None else {"Range": f"bytes={start}-{last}"}
        with self._errors(path):
            return b"" if length == 0 else reread(lambda: self._open(path, span), lambda body: bytes(body.read()))

    def fetch(self, files: Sequence[StoredFile], folder: Path) -> None:
        with disk_errors(self.uri, into=folder):
            require_space(files, folder, self.uri)
            targets = [landing(folder, file, self.uri) for file in files]
            parts = [target.with_name(f".{target.name}.part") for target in targets]
            try:
                self._download(files, parts, targets)
            finally:
                for part in parts:
                    part.unlink(missing_ok=True)

    def probe_write(self) -> bool:
        path = f".graft-probe-{uuid.uuid4().hex}"
        data = path.encode()
        self.create(path, data)
        if self._conditional:
            self._conditional = not self.create(path, data)
        if self.read(path) != data:
            raise UploadIncomplete(f"{self._place(path)} read back other bytes than were written.", "Check the store.")
        try:
            self._delete(path)
        except AccessDenied:
            _log.warning("%s stays behind: the credentials may not delete it", self._place(path))
        return self._conditional

    def create(self, path: str, data: bytes) -> bool:
        with self._errors(path, writing=True):
            return self._create(path, data) if self._conditional else self._create_unless_seen(path, data)

    def put(self, path: str, data: bytes) -> None:
        with self._errors(path, writing=True):
            client().put_object(**self._named(path), Body=data)

    def publish(self, files: Mapping[str, Path], manifest: bytes) -> None:
        with self._errors(MANIFEST, writing=True):
            if self._head(MANIFEST) is not None:
                raise OutputTaken(f"{self._place(MANIFEST)} exists already.", "Choose another output.")
        self._push(files)
        if not self.create(MANIFEST, manifest):
            raise OutputTaken(f"{self._place(MANIFEST)} was made by another run.", "Choose another output.")

    def replace(self, folder: str, files: Mapping[str, Path], manifest: bytes) -> None:
        self.delete(folder)
        self._push({f"{folder}/{name}": source for name, source in files.items()})
        self.put(f"{folder}/{MANIFEST}", manifest)

    def delete(self, folder: str) -> None:
        with self._errors(folder, writing=True):
            paths = {file.path for file in self._list(f"{folder}/")}
        if (manifest := f"{folder}/{MANIFEST}") in paths:
            self._delete(manifest)
        in_parallel(self._delete, paths - {manifest})

    def abort_uploads(self) -> None:
        if not self._prefix:  # a whole bucket: other prefixes of it may be others' outputs
            return
        try:
            with self._errors(writing=True):
                uploads = open_uploads(self._bucket, self._prefix)
                in_parallel(lambda upload: client().abort_multipart_upload(**upload), uploads)
        except (AccessDenied, NotFound):  # not allowed, unknown to this store, or gone meanwhile
            _log.debug("multipart uploads under %s are left as they are", self.uri, exc_info=True)

    def _place(self, path: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{path}".rstrip("/")

    def _named(self, path: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + path}

    def _errors(self, path: str = "", *, writing: bool = False) -> AbstractContextManager[None]:
        return job_errors(self._place(path), writing=writing)

    def _list(self, folder: str = "") -> list[StoredFile]:
        pages = client().get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix + folder)
        return [
            StoredFile(item["Key"].removeprefix(self._prefix), item["Size"], item["ETag"].strip('"'))
            for page in pages
            for item in page.get("Contents", ())
            if not item["Key"].endswith("/")  # consoles make an empty object to show a folder
        ]

    def _single(self) -> list[StoredFile]:
        """The one object that the URI names, if it does; paths are then relative to its parent."""
        if not self._key:
            return []
        whole = S3Store(S3Uri(self._bucket, self._key.rpartition("/")[0]))
        name = self._key.rpartition("/")[2]
        if (head := whole._head(name)) is None:
            return []
        self._prefix = whole._prefix
        return [StoredFile(name, head["ContentLength"], head["ETag"].strip('"'))]

    def _single_unless_refused(self) -> list[StoredFile]:
        """For credentials that may read but not list. The refusal of a HEAD has no words; that of the listing does."""
        try:
            return self._single()
        except ClientError:
            return []

    def _head(self, path: str, **options: str) -> dict[str, Any] | None:
        try:
            return dict(client().head_object(**self._named(path), **options))
        except ClientError as error:
            if status_of(error) != 404:
                raise
        return None

    def _open(self, path: str, span: Mapping[str, str]) -> Any:
        try:
            return client().get_object(**self._named(path), **span)["Body"]
        except ClientError as error:
            if status_of(error) != 416:  # the range begins at or after the end
                raise
        return io.BytesIO()

    def _create(self, path: str, data: bytes) -> bool:
        writer = uuid.uuid4().hex
        try:
            client().put_object(**self._named(path), Body=data, IfNoneMatch="*", Metadata={_WRITER: writer})
            return True
        except ClientError as error:
            if status_of(error) == 412:
                return self._wrote(path, writer)
            if status_of(error) != 501:
                raise
        self._conditional = False
        return self._create_unless_seen(path, data)

    def _wrote(self, path: str, writer: str) -> bool:
        """Whether the object is this writer's own: the SDK repeats a put whose answer was lost, and then sees 412."""
        head = self._head(path)
        return head is not None and head["Metadata"].get(_WRITER) == writer

    def _create_unless_seen(self, path: str, data: bytes) -> bool:
        if self._head(path) is not None:
            return False
        client().put_object(**self._named(path), Body=data)
        return True

    def _download(self, files: Sequence[StoredFile], parts: Sequence[Path], targets: Sequence[Path]) -> None:
        with self._errors(), transfer_manager() as manager:
            futures = [
                manager.download(
                    self._bucket,
                    self._prefix + file.path,
                    str(part),
                    subscribers=[Listed(file)] if self._listed.get(file.path) == file else [],
                )
                for file, part in zip(files, parts, strict=True)
            ]
            for file, part, target, future in zip(files, parts, targets, futures, strict=True):
                with self._errors(file.path):
                    future.result()
                settle(part, target, file, self.uri)

    def _delete(self, path: str) -> None:
        with self._errors(path, writing=True):
            client().delete_object(**self._named(path))

    def _push(self, files: Mapping[str, Path]) -> None:
        """Upload *files* and read them back."""
        with disk_errors(self.uri):
            sums = dict(zip(files, in_parallel(crc64_of_file, files.values()), strict=True))
            self._upload(files, sums)
            in_parallel(lambda path: self._verify(path, files[path].stat().st_size, sums[path]), files)

    def _upload(self, files: Mapping[str, Path], sums: Mapping[str, str]) -> None:
        """The transfer manager aborts the multipart uploads of what fails, and of what is under way then."""
        with self._errors(writing=True), transfer_manager() as manager:
            checked = client().meta.config.request_checksum_calculation == "when_supported"
            futures = {
                path: manager.upload(
                    str(source),
                    self._bucket,
                    self._prefix + path,
                    extra_args={"ChecksumCRC64NVME": sums[path]} if checked else {},
                )
                for path, source in files.items()
            }
            for path, future in futures.items():
                with self._errors(path, writing=True):
                    finish(future)

    def _verify(self, path: str, size: int, checksum: str) -> None:
        with self._errors(path, writing=True):
            head = self._head(path, ChecksumMode="ENABLED") or {"ContentLength": None}
            if head["ContentLength"] == size:
                stored = head.get("ChecksumCRC64NVME") or reread(lambda: self._open(path, {}), crc64)
                if stored == checksum:
                    return
        raise UploadIncomplete(f"{self._place(path)} did not read back as it was written.", "Run the job again.")
