"""How often a checkpoint is due, and whether one still fits before the end."""

import pytest

from job.records import StopNotice
from job.train.save_pace import STOP, STOP_AND_SAVE, SavePace


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def steps_until_due(pace: SavePace, clock: Clock, upload_s: float = 0.0) -> int:
    """Steps of one second each."""
    for step in range(10_000):
        pace.stepped()
        if pace.due(upload_s, waiting=0):
            return step
        clock.now += 1
    raise AssertionError("never")


def test_the_first_checkpoint_is_due_a_minute_after_the_first_step(clock):
    assert steps_until_due(SavePace(clock, heard_later=True), clock) == 60


@pytest.mark.parametrize(
    ("save_s", "upload_s", "seconds"),
    [(0.1, 0.0, 60), (3.0, 0.0, 150), (20.0, 0.0, 1000), (0.1, 500.0, 500)],
    ids=["cheap", "2 % of the time", "2 % of the time, whatever is at stake", "no faster than the store"],
)
def test_the_interval_grows_with_what_a_checkpoint_takes(clock, save_s, upload_s, seconds):
    pace = SavePace(clock, heard_later=True)
    steps_until_due(pace, clock)
    pace.saved(save_s)

    assert steps_until_due(pace, clock, upload_s) == seconds


def test_what_is_due_is_asked_for_once(clock):
    pace = SavePace(clock, heard_later=True)
    steps_until_due(pace, clock)

    clock.now += 1
    assert not pace.due(0.0, waiting=0)


def test_while_three_checkpoints_wait_to_be_pushed_none_is_due_and_then_one_is_at_once(clock):
    pace = SavePace(clock, heard_later=True)
    pace.stepped()

    clock.now += 100
    assert not pace.due(0.0, waiting=3)
    assert pace.due(0.0, waiting=2)


def test_a_checkpoint_for_another_reason_puts_off_the_next(clock):
    pace = SavePace(clock, heard_later=True)
    pace.stepped()
    clock.now += 59
    pace.saved(0.1)

    assert steps_until_due(pace, clock) == 60


@pytest.mark.parametrize(
    ("left_s", "upload_s", "how"),
    [(9.9, 3.0, STOP), (10.1, 3.0, STOP_AND_SAVE), (8.1, 1.0, STOP_AND_SAVE), (-5.0, 0.0, STOP)],
)
def test_a_stop_comes_with_a_checkpoint_if_step_save_and_upload_fit_before_the_deadline(clock, left_s, upload_s, how):
    pace = SavePace(clock, heard_later=True)
    pace.stepped()
    clock.now += 3.0  # a step
    pace.stepped()
    pace.saved(2.0)  # half as much again, and a second for what comes after

    assert pace.stop(StopNotice(reason="", deadline=clock.now + left_s), upload_s) == how


@pytest.mark.parametrize("gaps", [(3.0, 3.0, 100.0), (3.0, 100.0, 3.0)], ids=["just now", "one step ago"])
def test_an_evaluation_between_two_steps_makes_none_of_them_longer(clock, gaps):
    pace = SavePace(clock, heard_later=True)
    pace.stepped()
    for gap in gaps:
        clock.now += gap
        pace.stepped()
    pace.saved(2.0)

    assert pace.stop(StopNotice(reason="", deadline=clock.now + 7.1), upload_s=0.0) == STOP_AND_SAVE


@pytest.mark.parametrize(("left_s", "how"), [(0.9, STOP), (1.1, STOP_AND_SAVE)])
def test_a_first_checkpoint_is_tried_unless_hardly_any_time_is_left(clock, left_s, how):
    pace = SavePace(clock, heard_later=True)
    pace.stepped()

    assert pace.stop(StopNotice(reason="", deadline=clock.now + left_s), 0.0) == how
