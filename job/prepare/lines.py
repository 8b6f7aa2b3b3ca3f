"""Bytes and lines of a text file, plain or compressed, in bounded memory."""

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from job.errors import BadData
from job.prepare.progress import Meter
from job.records import DataFile

# Bytes of one record, decompressed. Four million tokens of text are far above any model's context, and even
# `[[],[],…`, which grows 20-fold as Python objects, stays under half a GiB.
RECORD_LIMIT = 16 * 2**20
TOO_LONG = f"is longer than {RECORD_LIMIT // 2**20} MiB"
BOM = b"\xef\xbb\xbf"

_BUFFER = 2**18  # bytes read at a time


@contextlib.contextmanager
def opened(file: DataFile, meter: Meter | None = None) -> Iterator[BinaryIO]:
    """The decompressed bytes of *file*, as a stream; *meter* is told how far it has been read.

    Raises:
        BadData: from the block that reads, where the compressed data is cut off or damaged.
    """
    try:
        with contextlib.ExitStack() as stack:
            raw = stack.enter_context(file.path.open("rb", buffering=0))
            if meter:
                meter.follow(file, raw.tell, file.path.stat().st_size)
                stack.callback(meter.finish, file)
            yield _decompressed(file, raw, stack)
    except (EOFError, zlib.error) as error:
        raise _damaged(file, str(error)) from error
    except OSError as error:
        if error.errno is not None:  # the disk's own failure, not the data's
            raise
        raise _damaged(file, str(error)) from error


def _decompressed(file: DataFile, raw: io.RawIOBase, stack: contextlib.ExitStack) -> BinaryIO:
    if file.path.suffix not in (".gz", ".zst"):
        return io.BufferedReader(raw, _BUFFER)
    if file.path.stat().st_size == 0:
        raise _damaged(file, "it is empty, without even a header")
    if file.path.suffix == ".gz":
        plain = cast(io.RawIOBase, stack.enter_context(gzip.GzipFile(fileobj=io.BufferedReader(raw, _BUFFER))))
    else:
        import pyarrow

        plain = stack.enter_context(pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, "r"), "zstd"))
    return stack.enter_context(io.BufferedReader(plain, _BUFFER))


def _damaged(file: DataFile, reason: str) -> BadData:
    return BadData(f"{file.name} cannot be decompressed ({reason[:200]}).", "It is cut off or damaged; write it again.")


def read_lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """The lines of *stream*, without a byte order mark; None in the place of one above RECORD_LIMIT, which is passed
    over without being held."""
    first = True
    while line := stream.readline(RECORD_LIMIT + 1):
        if len(line) > RECORD_LIMIT and not line.endswith(b"\n"):
            _skip_line(stream)
            yield None
        else:
            yield line.removeprefix(BOM) if first else line
        first = False


def _skip_line(stream: BinaryIO) -> None:
    while (rest := stream.readline(_BUFFER)) and not rest.endswith(b"\n"):
        pass


def decode(raw: bytes, where: str) -> str:
    """*raw* as text.

    Raises:
        BadData: it is not UTF-8.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadData(f"{where}: byte {error.start} is not valid UTF-8.", "Save the file as UTF-8.") from error
