"""What is said while rows are prepared: how many, how fast, how long still."""

import gzip
import io
import itertools
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
from job.records import DataFile, Forecast
from job.spec import JobSpec

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


class Unwritable(io.StringIO):
    """What a stream says when its disk is full, its reader has died, or it is closed."""

    def __init__(self, error: Exception, terminal: bool) -> None:
        super().__init__()
        self._error, self.isatty = error, lambda: terminal
        self.tried = 0

    def write(self, _: str) -> int:
        self.tried += 1
        raise self._error


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize(
    "error", [OSError(28, "full"), BrokenPipeError(32, "no reader"), ValueError("closed")], ids=str
)
def test_what_cannot_be_told_to_a_person_changes_nothing(error, terminal):
    stream = Unwritable(error, terminal)
    console = Console(stream, lambda text: text)

    console.event({"event": "preparing", "rows": 1, "rows_per_s": 1.0, "left_s": 1})
    console.say("said")
    console.warn("warned")

    assert stream.tried >= 3


def test_the_first_figures_of_training_correct_what_was_foreseen():
    stream, clock = io.StringIO(), Clock()
    console = Console(stream, lambda text: text, clock=clock)
    spec = JobSpec(model="org/base", gpu_hour_price=3)
    foreseen = Forecast(tokens_per_s=2000, why="a guess", steps=100, tokens=720_000, hours=0.1, cost=0.6)
    console.forecast(spec, foreseen, num_gpus=2)
    for step in (1, 11, 21):
        clock.now = step * 10.0
        console.event(
            {
                "event": "train",
                "step": step,
                "total_steps": 100,
                "loss": 1,
                "learning_rate": 1,
                "num_tokens": 9000 * step,
            }
        )

    said = stream.getvalue()
    assert said.count("measured") == 1
    assert "measured 900 tokens/s where 2,000 were foreseen: 16m40s and 1.67 for all of training" in said


def test_how_much_of_the_files_a_sample_has_read_tells_how_many_rows_there_are(file):
    meter = Meter([file])
    records = read_records((file,), meter)
    seen = sum(1 for _ in itertools.islice(records, 15_000))
    meter.stop()
    assert sum(1 for _ in records) == 45_000  # what is read after it was asked makes no difference

    assert seen / meter.stopped_at == pytest.approx(60_000, rel=0.2)
