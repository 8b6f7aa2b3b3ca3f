"""Rows of JSONL, JSON, CSV and Parquet files, each with the file and line a person finds it at."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from job.errors import BadData
from job.records import DataFile

# A quoted CSV field may be a whole document; Python's default limit is 128 KiB.
csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True)
class Row:
    """One record as it stands in the file. *where* is ``name:line`` (row number for Parquet and JSON arrays)."""

    where: str
    fields: dict[str, Any]


def read_rows(files: tuple[DataFile, ...]) -> Iterator[Row | BadData]:
    """All rows of *files*, in order; in the place of a row that cannot be read, the problem that names it.

    Raises:
        BadData: a whole file cannot be read.
    """
    return chain.from_iterable(_read_file(file) for file in files)


def _read_file(file: DataFile) -> Iterator[Row | BadData]:
    match file.path.suffix:
        case ".csv":
            return _read_csv(file)
        case ".parquet":
            return _read_parquet(file)
        case ".json" if _starts_array(file.path):
            return _read_json_array(file)
        case _:  # datasets call both one-object-a-line and array files .json
            return _read_json_lines(file)


def _starts_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _read_json_lines(file: DataFile) -> Iterator[Row | BadData]:
    with file.path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            if line.strip():
                yield _row(f"{file.name}:{number}", line.rstrip())


def _read_json_array(file: DataFile) -> Iterator[Row | BadData]:
    records = _parse(file.path.read_bytes().removeprefix(b"\xef\xbb\xbf"), file.name)
    for number, record in enumerate(records, start=1):
        yield _checked(f"{file.name}:row {number}", record)


def _read_csv(file: DataFile) -> Iterator[Row | BadData]:
    with file.path.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.DictReader(text, strict=True)
        try:
            for record in reader:
                where = f"{file.name}:{reader.line_num}"
                whole = None not in record and None not in record.values()
                yield (
                    Row(where, record)
                    if whole
                    else BadData(f"{where}: expected {len(reader.fieldnames or ())} columns.")
                )
        except (csv.Error, UnicodeDecodeError) as error:
            raise BadData(f"{file.name}:{reader.line_num + 1}: {error}.", "Save the file as UTF-8 CSV.") from error


def _read_parquet(file: DataFile) -> Iterator[Row | BadData]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file.path) as table:
            number = 0
            for batch in table.iter_batches(batch_size=1024):
                for record in batch.to_pylist():
                    number += 1
                    yield Row(f"{file.name}:row {number}", record)
    except pyarrow.ArrowException as error:
        raise BadData(f"{file.name} is not readable Parquet ({error}).", "Write the file again.") from error


def _parse(raw: bytes, where: str) -> Any:
    try:
        return json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadData(f"{where}: byte {error.start} is not valid UTF-8.", "Save the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise BadData(f"{where}: not valid JSON ({error.msg} at column {error.colno}).", "Mend the line.") from error
    except RecursionError as error:
        raise BadData(f"{where}: nested too deeply.", "Flatten the record.") from error


def _row(where: str, line: bytes) -> Row | BadData:
    try:
        return _checked(where, _parse(line, where))
    except BadData as problem:
        return problem


def _checked(where: str, record: Any) -> Row | BadData:
    if isinstance(record, dict):
        return Row(where, record)
    return BadData(f"{where}: expected an object, found {type(record).__name__}.", "Write one object per row.")
