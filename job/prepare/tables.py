"""Rows of Parquet and Arrow files. Both come from strangers: nothing in them is used before it has been validated."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from job.errors import BadData
from job.prepare.lines import RECORD_LIMIT, TOO_LONG
from job.prepare.progress import Meter
from job.prepare.row import Row
from job.records import DataFile

_ROWS = 16  # decoded at a time; few, because a file of a kilobyte can hold a gigabyte of equal strings
_IPC_FILE = b"ARROW1"  # what an Arrow file begins with; a stream, as datasets.save_to_disk writes it, does not


def read_parquet(file: DataFile, meter: Meter) -> Iterator[Row | BadData]:
    """All rows; the problem in the place of one with a value that Python cannot hold.

    Raises:
        BadData: the file is damaged.
    """
    import pyarrow.parquet

    # Columns piece by piece instead of a whole row group at once.
    piecewise = {"pre_buffer": False, "buffer_size": 2**20}
    with _readable(file, "Parquet"), pyarrow.parquet.ParquetFile(file.path, **piecewise) as table:
        _refuse_duplicates(file, table.schema_arrow.names)
        batches = table.iter_batches(batch_size=_ROWS, use_threads=False)
        yield from _rows(file, _counted(batches, file, meter, table.metadata.num_rows))


def read_arrow(file: DataFile, meter: Meter) -> Iterator[Row | BadData]:
    """All rows of an Arrow IPC file or stream; the problem in the place of one that Python cannot hold.

    Raises:
        BadData: the file is damaged.
    """
    import pyarrow

    # Mapped, so that batches of any size take no memory of their own.
    with _readable(file, "Arrow"), pyarrow.memory_map(str(file.path)) as source:
        meter.follow(file, source.tell, source.size())
        yield from _rows(file, _validated(file, source))
        meter.finish(file)


def _counted(batches: Iterable[Any], file: DataFile, meter: Meter, total: int) -> Iterator[Any]:
    done = 0
    meter.follow(file, lambda: done, total)
    for batch in batches:
        yield batch
        done += batch.num_rows


def _validated(file: DataFile, source: Any) -> Iterator[Any]:
    """The record batches in *source*. An offset that points out of its buffer would otherwise read foreign memory."""
    from pyarrow import ipc

    is_file = source.read(len(_IPC_FILE)) == _IPC_FILE
    source.seek(0)
    reader = ipc.open_file(source) if is_file else ipc.open_stream(source)
    _refuse_duplicates(file, reader.schema.names)
    batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
    for batch in batches:
        batch.validate(full=True)
        yield batch


def _rows(file: DataFile, batches: Iterable[Any]) -> Iterator[Row | BadData]:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _ROWS):
            rows = batch.slice(start, _ROWS)
            size = rows.nbytes // rows.num_rows
            for record in _records(rows):
                number += 1
                where = f"{file.name}:row {number}"
                if isinstance(record, dict):
                    yield Row(where, record, size)
                else:
                    yield BadData(f"{where} cannot be read ({_said(record)}).", "Leave it out, or mend it.")


def _records(batch: Any) -> Iterator[dict[str, Any] | Exception]:
    """Each row as a dict, or the reason why it cannot be one."""
    if batch.nbytes <= RECORD_LIMIT:
        with contextlib.suppress(Exception):  # below it is found out which row it was
            yield from batch.to_pylist()
            return
    for index in range(batch.num_rows):
        row = batch.slice(index, 1)
        try:
            yield row.to_pylist()[0] if row.nbytes <= RECORD_LIMIT else ValueError(f"it {TOO_LONG}")
        except Exception as error:  # pyarrow raises nearly anything for dates, zones and bytes it cannot convert
            yield error


def _refuse_duplicates(file: DataFile, names: list[str]) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise BadData(f"{file.name}: column {twice[0][:80]!r} appears twice.", "Rename one of them.")


@contextlib.contextmanager
def _readable(file: DataFile, kind: str) -> Iterator[None]:
    """Whatever pyarrow raises within is the file's fault, but for what the disk itself says."""
    try:
        yield
    except BadData:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BadData(f"{file.name} is not readable {kind} ({_said(error)}).", "Write the file again.") from error


def _said(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0].rstrip(".")[:200]
