"""Rows of JSON Lines, JSON, CSV, Parquet and Arrow files, each with the file and line a person finds it at.

Files are read as streams: memory does not grow with them, and one record is bounded by `RECORD_LIMIT`. Whatever a file
holds, reading ends in rows or in `BadData` with its name.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import PurePath

from job.errors import BadData
from job.prepare.csv_rows import read_csv
from job.prepare.json_rows import read_json_array, read_json_lines, starts_array
from job.prepare.row import Row
from job.prepare.tables import read_arrow, read_parquet
from job.records import DataFile

__all__ = ["Row", "read_rows"]


def read_rows(files: tuple[DataFile, ...]) -> Iterator[Row | BadData]:
    """All rows of *files*, in order; in the place of a row that cannot be read, the problem that names it.

    Raises:
        BadData: a whole file cannot be read, or not from some place on.
    """
    return chain.from_iterable(_read_file(file) for file in files)


def _read_file(file: DataFile) -> Iterator[Row | BadData]:
    match PurePath(file.path.name.removesuffix(".gz").removesuffix(".zst")).suffix:
        case ".csv":
            return read_csv(file)
        case ".parquet":
            return read_parquet(file)
        case ".arrow":
            return read_arrow(file)
        case ".json" if starts_array(file):
            return read_json_array(file)
        case _:  # datasets call both one-object-a-line and array files .json
            return read_json_lines(file)
