"""The log that the supervisor and rank 0 share."""

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

from job.events import EventLog, EventTail


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file grows beyond *size* bytes: the kernel cuts a write short there, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_event_that_a_full_disk_cut_short_is_passed_over(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    log, tail = EventLog(path), EventTail(path)

    log.write("whole")
    with room_for(path.stat().st_size + 20):
        log.write("cut", cause="a" * 100)
    assert [event["event"] for event in tail.new()] == ["whole"]
    log.write("glued to it")
    log.write("after room was made")

    assert [event["event"] for event in tail.new()] == ["after room was made"]


def test_a_line_that_is_still_being_written_waits_for_its_end(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    tail = EventTail(path)

    path.write_text('{"event": "be')
    assert list(tail.new()) == []
    with path.open("a") as file:
        file.write('gun"}' + "\n")

    assert list(tail.new()) == [{"event": "begun"}]
