"""The AWS SDK as this job uses it: one client, its retries and time limits, and checksums as S3 writes them."""

import base64
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from awscrt import checksums
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config
from botocore.session import Session
from s3transfer.subscribers import BaseSubscriber

from job.errors import BadSpec
from job.storage import StoredFile
from job.storage.s3_errors import BROKEN_STREAM

_ATTEMPTS = 8  # tries per request, about a minute with the SDK's back-off; AWS_MAX_ATTEMPTS goes before it
_READS = 3  # tries of a read whose stream breaks
_MIB = 2**20
_TRANSFERS = TransferConfig(
    max_concurrency=16,
    multipart_threshold=16 * _MIB,
    multipart_chunksize=16 * _MIB,
    preferred_transfer_client="classic",  # the CRT's client ignores our retries and time limits
)

ResultT = TypeVar("ResultT")


@cache
def client() -> Any:
    """The one S3 client of this process, made when it is first needed: that takes 0.2 s, and it keeps connections."""
    session = Session()
    config = Config(
        retries={"total_max_attempts": session.get_config_variable("max_attempts") or _ATTEMPTS},
        connect_timeout=5,  # seconds
        read_timeout=60,  # seconds without a byte
        max_pool_connections=32,
    )
    try:
        return session.create_client("s3", config=config)
    except ValueError as error:
        raise BadSpec("AWS_ENDPOINT_URL is not a URL.", "Give it as http(s)://host[:port].") from error


def transfer_manager() -> Any:
    """Uploads and downloads in parallel parts. As a context it cancels, and aborts in the store, what is not done."""
    return create_transfer_manager(client(), _TRANSFERS)


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
    for _ in range(_READS - 1):
        stream = begin()
        try:
            return finish(stream)
        except BROKEN_STREAM:
            continue
    return finish(begin())
