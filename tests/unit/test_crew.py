"""The processes that share preparation: order, bounds, failures, and none of them left behind."""

import os
import signal
import time
from itertools import count

import psutil
import pytest

from job.errors import BadData, Bug, UnsuitableHost
from job.prepare.crew import Crew


def slow_when_even(number: int) -> int:
    time.sleep(0.02 * (number % 2 == 0))
    return number * 10


@pytest.mark.parametrize("size", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(size):
    with Crew(slow_when_even, size) as crew:
        assert list(crew.map(range(12))) == [number * 10 for number in range(12)]


def test_no_items_give_no_results():
    with Crew(slow_when_even, 3) as crew:
        assert list(crew.map([])) == []


def test_items_are_taken_only_as_results_are_asked_for():
    taken = []
    with Crew(abs, 2) as crew:
        results = crew.map(taken.append(number) or number for number in count())
        assert [next(results) for _ in range(3)] == [0, 1, 2]

    assert len(taken) <= 3 + 2


def test_large_items_and_results_do_not_block_each_other():
    with Crew(bytes.swapcase, 2) as crew:
        assert sum(map(len, crew.map(b"x" * 2**22 for _ in range(8)))) == 8 * 2**22


def refuse(number: int) -> int:
    if number == 3:
        raise BadData("rows.jsonl:3: no.", "Mend it.")
    return number


def test_a_refusal_arrives_as_it_was_raised():
    with Crew(refuse, 2) as crew, pytest.raises(BadData) as caught:
        list(crew.map(range(9)))

    assert (caught.value.cause, caught.value.fix) == ("rows.jsonl:3: no.", "Mend it.")


def test_an_unknown_error_is_a_bug_with_its_traceback():
    with Crew(lambda number: 1 // number, 2) as crew, pytest.raises(Bug, match="ZeroDivisionError") as caught:
        list(crew.map([1, 0]))

    assert "1 // number" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("work", "how"),
    [(lambda _: os.kill(os.getpid(), signal.SIGKILL), "killed by SIGKILL"), (lambda _: os._exit(3), "status 3")],
)
def test_a_process_that_dies_is_no_riddle(work, how):
    with Crew(work, 2) as crew, pytest.raises(UnsuitableHost, match=how):
        list(crew.map(range(4)))


def test_no_process_is_left():
    before = set(psutil.Process().children())
    with Crew(abs, 3) as crew:
        next(crew.map(range(9)))
        assert len(set(psutil.Process().children()) - before) == 3

    assert set(psutil.Process().children()) <= before


def test_processes_end_when_the_one_that_reads_is_killed():
    reading, writing = os.pipe()
    parent = os.fork()
    if not parent:
        os.close(reading)
        with Crew(abs, 2) as crew:
            next(crew.map(range(9)))
            os.kill(os.getpid(), signal.SIGKILL)
    os.close(writing)
    os.waitpid(parent, 0)

    os.set_blocking(reading, True)
    signal.alarm(20)
    assert os.read(reading, 1) == b""  # the end of the pipe: every process that held it is gone
    signal.alarm(0)
    os.close(reading)
