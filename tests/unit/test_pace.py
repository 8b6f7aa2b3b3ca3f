"""Speed and time left, for the person who watches and for those who look from outside."""

from typing import Any

import pytest

from job.pace import Live, Pace, Speed, duration
from job.records import Progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def step(number: int, tokens: int = 0) -> dict[str, Any]:
    return {"event": "train", "step": number, "total_steps": 100, "loss": 1.5, "num_tokens": tokens}


def test_the_speed_is_the_mean_since_the_first_step_and_evaluations_are_no_part_of_it():
    clock = Clock()
    pace = Pace(clock)
    clock.now = 50.0  # start-up
    assert pace.event(step(1, tokens=100)) is None

    clock.now = 80.0
    assert pace.event({"event": "evaluation", "eval_runtime": 20.0}) is None
    assert pace.event(step(6, tokens=1100)) == Speed(tokens_per_s=100.0, step_s=2.0)


def test_workers_that_start_again_are_measured_anew():
    clock = Clock()
    pace = Pace(clock)
    pace.event(step(1, tokens=100))
    clock.now = 1000.0
    pace.event({"event": "train_begin", "step": 1, "total_steps": 100})
    assert pace.event(step(2, tokens=200)) is None

    clock.now = 1001.0
    assert pace.event(step(3, tokens=300)) == Speed(tokens_per_s=100.0, step_s=1.0)


def test_steps_that_were_read_at_one_look_have_no_speed_yet():
    clock = Clock()
    pace = Pace(clock)

    assert [pace.event(step(1, tokens=400)), pace.event(step(2, tokens=700))] == [None, None]
    clock.now = 0.003  # as long as it takes to read the next line
    assert pace.event(step(3, tokens=1000)) is None
    clock.now = 1.0
    assert pace.event(step(4, tokens=1400)) == Speed(tokens_per_s=1000.0, step_s=pytest.approx(1 / 3))


def test_how_far_the_run_is_follows_from_phases_steps_and_checkpoints():
    clock = Clock()
    live = Live(clock)
    live.enter("train")
    live.event({"event": "train_begin", "step": 0, "total_steps": 100})
    live.event(step(10, tokens=0))
    clock.now = 5.0
    live.event(step(20, tokens=500))
    live.event({"event": "evaluation", "eval_runtime": 1.0, "eval_loss": 2.5})
    live.durable(20)

    assert live.progress == Progress(
        phase="train", step=20, total_steps=100, loss=1.5, eval_loss=2.5, tokens_per_s=100.0, left_s=40.0,
        last_durable_step=20,
    )  # fmt: skip


def test_after_a_new_start_no_old_speed_is_told():
    clock = Clock()
    live = Live(clock)
    live.event(step(10))
    clock.now = 5.0
    live.event(step(20))
    live.event({"event": "train_begin", "step": 15, "total_steps": 100})

    assert (live.progress.step, live.progress.tokens_per_s, live.progress.left_s) == (15, None, None)


@pytest.mark.parametrize(("seconds", "words"), [(0, "0m00s"), (95, "1m35s"), (59.6, "1m00s"), (3905, "1h05m")])
def test_a_duration_is_what_a_person_reads(seconds, words):
    assert duration(seconds) == words
