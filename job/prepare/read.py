"""Rows of JSON Lines, JSON, CSV, Parquet and Arrow files, each with the file and line a person finds it at.

Files are read as streams: memory does not grow with them, and one record is bounded by `RECORD_LIMIT`. Whatever a file
holds, reading ends in rows or in `BadData` with its name.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import PurePath

from job.errors import BadData
from job.prepare.csv_rows import read_csv
from job.prepare.json_rows import JsonLine, read_json_array, read_json_lines, starts_array
from job.prepare.progress import Meter
from job.prepare.row import Row
from job.prepare.tables import read_arrow, read_parquet
from job.records import DataFile

__all__ = ["Record", "Row", "read_records", "read_rows", "to_row"]

# A line of JSON Lines is split off by one process and decoded by another.
Record = Row | BadData | JsonLine


def read_rows(files: tuple[DataFile, ...]) -> Iterator[Row | BadData]:
    """All rows of *files*, in order; in the place of a row that cannot be read, the problem that names it.

    Raises:
        BadData: a whole file cannot be read, or not from some place on.
    """
    return map(to_row, read_records(files, Meter(files)))


def read_records(files: tuple[DataFile, ...], meter: Meter) -> Iterator[Record]:
    """As `read_rows`, but what can wait is left to `to_row`; *meter* is told how far the reading has come."""
    return chain.from_iterable(_read_file(file, meter) for file in files)


def to_row(record: Record) -> Row | BadData:
    """*record* decoded, or the problem that names it."""
    return record.row() if isinstance(record, JsonLine) else record


def _read_file(file: DataFile, meter: Meter) -> Iterator[Record]:
    match PurePath(file.path.name.removesuffix(".gz").removesuffix(".zst")).suffix:
        case ".csv":
            return read_csv(file, meter)
        case ".parquet":
            return read_parquet(file, meter)
        case ".arrow":
            return read_arrow(file, meter)
        case ".json" if starts_array(file):
            return read_json_array(file, meter)
        case _:  # datasets call both one-object-a-line and array files .json
            return read_json_lines(file, meter)
