"""What ends training early, and how long the workers are given."""

import signal
import time

import pytest

from job.deadline import Deadline
from job.early_end import EarlyEnd
from job.errors import AccessDenied, DeadlineReached, Interrupted, OutputTaken
from job.processes import StopRequest


def raising(error: Exception):
    def check() -> None:
        raise error

    return check


def watch(
    stop: StopRequest | None = None, deadline: Deadline | None = None, check=lambda: None, reserve_s=0.0
) -> EarlyEnd:
    return EarlyEnd(stop or StopRequest(), 25.0, deadline, lambda: reserve_s, check)


def test_nothing_ends_training_early_unless_something_happens():
    early = watch(deadline=Deadline(time.monotonic() + 60, "JOB_MAX_HOURS=1"))

    assert (early.notice(), early.error) == (None, None)


def test_a_signal_grants_the_grace_that_is_left():
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        early = watch(stop)

    assert early.notice().deadline == stop.since + 25.0
    assert isinstance(early.error, Interrupted)


def test_the_deadline_stops_training_early_enough_to_publish():
    ends_at = time.monotonic() + 60

    assert watch(deadline=Deadline(ends_at, "JOB_MAX_HOURS=1"), reserve_s=50).notice() is None
    early = watch(deadline=Deadline(ends_at, "JOB_MAX_HOURS=1"), reserve_s=61)

    assert early.notice().deadline == ends_at
    assert isinstance(early.error, DeadlineReached)


def test_another_attempt_that_has_taken_over_ends_it_at_once():
    early = watch(check=raising(OutputTaken("attempt 2 has taken over")))

    assert early.notice().deadline <= time.monotonic()
    assert isinstance(early.error, OutputTaken)


def test_credentials_that_are_refused_leave_time_for_a_local_checkpoint():
    early = watch(check=raising(AccessDenied("forbidden")))

    assert early.notice().deadline == pytest.approx(time.monotonic() + 25.0, abs=1)


def test_the_first_reason_holds_and_a_signal_after_it_can_only_shorten_the_time():
    with StopRequest() as stop:
        early = watch(stop, deadline=Deadline(time.monotonic() + 100, "JOB_MAX_HOURS=1"), reserve_s=200)
        first = early.notice()
        signal.raise_signal(signal.SIGTERM)

    assert isinstance(early.error, DeadlineReached)
    assert early.notice().reason == first.reason
    assert early.notice().deadline == stop.since + 25.0 < first.deadline
