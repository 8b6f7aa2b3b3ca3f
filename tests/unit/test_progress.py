"""What is said while rows are prepared: how many, how fast, how long still."""

import gzip
import io
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from job.console import Console
from job.events import EventLog
from job.prepare.progress import Meter, Progress
from job.prepare.read import read_records
from job.records import DataFile

# Of random digits, so that the compressed file too is longer than any buffer.
LINES = "".join(json.dumps({"text": random.Random(index).randbytes(60).hex()}) + "\n" for index in range(60_000))


def data_file(path: Path, content: bytes) -> DataFile:
    path.write_bytes(content)
    return DataFile(path=path, name=path.name, identity="")


def parquet(path: Path) -> DataFile:
    table = pa.Table.from_pylist([json.loads(line) for line in LINES.splitlines()])
    pyarrow.parquet.write_table(table, path, row_group_size=1000)
    return DataFile(path=path, name=path.name, identity="")


@pytest.fixture(params=["rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
def file(request, tmp_path: Path) -> DataFile:
    path = tmp_path / request.param
    if path.suffix == ".parquet":
        return parquet(path)
    return data_file(path, gzip.compress(LINES.encode()) if path.suffix == ".gz" else LINES.encode())


def test_the_share_read_grows_with_the_rows(file):
    meter, shares = Meter([file]), []
    for number, _ in enumerate(read_records((file,), meter)):
        if number % 15_000 == 7500:
            shares.append(meter.share())

    assert shares == pytest.approx([0.125, 0.375, 0.625, 0.875], abs=0.2)
    assert meter.share() == 1


def test_of_two_files_each_counts_by_its_size(tmp_path):
    small, large = (data_file(tmp_path / name, b'{"text": "a"}\n' * n) for name, n in (("a", 1), ("b", 3)))
    meter = Meter([small, large])
    list(read_records((small,), meter))

    assert meter.share() == pytest.approx(0.25)


def test_no_bytes_are_no_division_by_zero(tmp_path):
    assert Meter([data_file(tmp_path / "a", b"")]).share() == 0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Read:
    """A meter that stands at a given share."""

    def __init__(self, share: float) -> None:
        self.share = lambda: share


@pytest.mark.parametrize(
    ("share", "row_limit", "left_s"), [(0.25, None, 30.0), (0.0, None, None), (0.001, 400, 30.0), (1.0, None, 0.0)]
)
def test_the_time_left_follows_from_the_share_done(tmp_path, share, row_limit, left_s):
    clock, log = Clock(), tmp_path / "log.jsonl"
    progress = Progress(EventLog(log), Read(share), row_limit, clock)
    clock.now = 4.9
    progress.add(50)
    assert not log.exists()  # a wait so short needs no word
    clock.now = 10.0
    progress.add(50)

    event = json.loads(log.read_text())
    assert (event["rows"], event["rows_per_s"], event["left_s"]) == (100, 10.0, left_s)


def test_it_is_a_line_a_person_can_read():
    stream = io.StringIO()
    console = Console(stream, lambda text: text)
    console.event({"event": "preparing", "rows": 12_000, "rows_per_s": 2400.4, "left_s": 95})
    console.event({"event": "preparing", "rows": 24_000, "rows_per_s": 2400.4, "left_s": None})

    assert stream.getvalue() == (
        "  12,000 rows prepared  2,400 rows/s  1m35s left\n  24,000 rows prepared  2,400 rows/s\n"
    )
