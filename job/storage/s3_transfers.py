"""Files on their way to and from S3: in parallel parts, with checksums as S3 writes them."""

import base64
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from awscrt import checksums
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.exceptions import ClientError
from s3transfer.subscribers import BaseSubscriber

from job.storage import StoredFile
from job.storage.patience import Patience
from job.storage.s3_client import client
from job.storage.s3_errors import BROKEN_STREAM

_MIB = 2**20
_TRANSFERS = TransferConfig(
    max_concurrency=16,
    multipart_threshold=16 * _MIB,
    multipart_chunksize=16 * _MIB,
    preferred_transfer_client="classic",  # the CRT's client ignores our retries and time limits
)

ResultT = TypeVar("ResultT")


def transfer_manager() -> Any:
    """Uploads and downloads in parallel parts. As a context it cancels, and aborts in the store, what is not done."""
    return create_transfer_manager(client(), _TRANSFERS)


def open_uploads(bucket: str, prefix: str) -> list[dict[str, str]]:
    """The multipart uploads under *prefix* that were begun and neither completed nor aborted, as the SDK names them."""
    pages = client().get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
    return [
        {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
        for page in pages
        for upload in page.get("Uploads", ())
    ]


def finish(upload: Any) -> None:
    """Wait for an upload of the transfer manager. The SDK completes a multipart upload once more when the answer was
    lost, and most stores then know of no such upload: whether it is complete, reading back tells."""
    try:
        upload.result()
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") != "NoSuchUpload":
            raise


class Listed(BaseSubscriber):  # type: ignore[misc]
    """Pins a download to the object that was listed, and saves the transfer manager from asking for it again."""

    def __init__(self, file: StoredFile) -> None:
        self._file = file

    def on_queued(self, future: Any, **_: Any) -> None:
        future.meta.provide_transfer_size(self._file.size)
        future.meta.provide_object_etag(f'"{self._file.identity}"')


def crc64(stream: Any) -> str:
    """CRC-64/NVME as S3 writes it: eight bytes, big-endian, in base64."""
    value = 0
    while chunk := stream.read(_MIB):
        value = checksums.crc64nvme(chunk, value)
    return base64.b64encode(value.to_bytes(8, "big")).decode()


def crc64_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return crc64(file)


def reread(begin: Callable[[], Any], finish: Callable[[Any], ResultT]) -> ResultT:
    """*finish* on the stream of *begin*, from the start if the stream breaks, which the SDK does not repeat."""
    patience = Patience()
    while True:
        stream = begin()
        try:
            return finish(stream)
        except BROKEN_STREAM:
            if (wait := patience.wait_s()) is None:
                raise
        time.sleep(wait)
