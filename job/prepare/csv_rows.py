"""Rows of CSV files: UTF-8, the names in the first row, quotes as RFC 4180 has them."""

import csv
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

from job.errors import BadData
from job.prepare.lines import RECORD_LIMIT, TOO_LONG, decode, opened, read_lines
from job.prepare.progress import Meter
from job.prepare.row import Row
from job.records import DataFile

# A quoted field may be a whole document; Python's default limit is 128 KiB.
csv.field_size_limit(RECORD_LIMIT)

_FIX = "Save the file as UTF-8 CSV."


def read_csv(file: DataFile, meter: Meter) -> Iterator[Row | BadData]:
    """One row per record; the problem in the place of one with too few or too many fields.

    Raises:
        BadData: from where on the file is no CSV: after a wrong quote nobody knows where the next row begins.
    """
    with opened(file, meter) as stream:
        lines = _Lines(stream, file.name)
        reader = csv.reader(lines, strict=True)
        try:
            names = next(filter(None, reader), [])
            _refuse_duplicates(names, f"{file.name}:{reader.line_num}")
            for record in filter(None, reader):  # a blank line is an empty record
                size, lines.record_size = lines.record_size, 0
                where = f"{file.name}:{reader.line_num}"
                if len(record) == len(names):
                    yield Row(where, dict(zip(names, record, strict=True)), size)
                else:
                    yield BadData(f"{where}: expected {len(names)} columns, found {len(record)}.", _FIX)
        except csv.Error as error:
            raise BadData(f"{file.name}:{reader.line_num}: {error}.", _FIX) from error


def _refuse_duplicates(names: list[str], where: str) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise BadData(f"{where}: column {twice[0][:80]!r} appears twice.", "Rename one of them.")


class _Lines:
    """Lines for `csv.reader`, which would gather those of an unclosed quote without end."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.record_size = 0  # bytes since the last complete record
        self._lines = enumerate(read_lines(stream), start=1)
        self._name = name

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        number, line = next(self._lines)
        where = f"{self._name}:{number}"
        self.record_size += len(line or b"")
        if line is None or self.record_size > RECORD_LIMIT:
            raise BadData(f"{where}: the record {TOO_LONG}.", "Look for a quote that is never closed.")
        if b"\0" in line:
            raise BadData(f"{where}: there is a NUL byte.", _FIX)
        return decode(line, where)
