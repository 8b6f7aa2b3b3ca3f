"""How long a failing request is tried again."""

import time

import pytest

from job.storage import patience
from job.storage.patience import Patience


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def waits(clock: list[float], request_s: float) -> list[float]:
    """The waits between the tries of a request that fails after *request_s* seconds each time."""
    taken, with_it = [], Patience()
    clock[0] += request_s
    while (wait := with_it.wait_s()) is not None:
        taken.append(wait)
        clock[0] += wait + request_s
    return taken


@pytest.mark.parametrize("request_s", [0.001, 1, 30])
def test_a_request_that_only_fails_is_given_up_in_about_two_minutes(clock: list[float], request_s: float) -> None:
    began = clock[0]
    waits(clock, request_s)
    assert patience.PATIENCE_S <= clock[0] - began <= patience.PATIENCE_S + patience.LONGEST_WAIT_S + 2 * request_s


def test_a_cut_connection_is_tried_often_enough_to_come_through_where_a_third_of_all_fail(clock: list[float]) -> None:
    assert min(len(waits(clock, 0.01)) for _ in range(100)) > 12  # and 0.3 ** 12 is one in two million


def test_the_waits_are_random_and_grow_up_to_their_limit(clock: list[float]) -> None:
    runs = [waits(clock, 0.01) for _ in range(50)]
    assert len({run[0] for run in runs}) == 50
    assert max(run[0] for run in runs) <= patience.FIRST_WAIT_S
    assert patience.LONGEST_WAIT_S / 2 < max(max(run) for run in runs) <= patience.LONGEST_WAIT_S


def test_a_long_upload_that_fails_at_its_end_is_repeated(clock: list[float]) -> None:
    with_it = Patience()
    clock[0] += 3600
    assert with_it.wait_s() is not None
