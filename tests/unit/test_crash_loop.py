"""Which attempts show that another one would teach nothing."""

import pytest

from job.attempts import Past, crash_loop
from job.errors import GpuFault
from job.records import Outcome, Progress, Pulse
from tests.unit.attempts import (
    ended_with,
)


def past(
    number: int, code: int | None, durable: int | None = None, phase: str = "train", *, step: int | None = None,
    ending: bool = False,
) -> Past:  # fmt: skip
    progress = Progress(phase=phase, step=step, last_durable_step=durable)
    pulse = Pulse(beat=1, elapsed_s=60, num_gpus=1, ending=ending, progress=progress)
    if code is None:
        return Past(number, None, pulse)
    outcome = Outcome(
        status="failed", code=code, error_class="Fault", phase=phase, cause=f"cause {number}.", fix="", attempt=number,
        last_durable_step=durable,
    )  # fmt: skip
    return Past(number, outcome, pulse)


def test_three_crashes_without_a_durable_step_are_enough_and_each_is_named():
    error = crash_loop([past(1, 75, durable=20), past(2, 81, durable=20), past(3, None, durable=20), past(4, 82, 20)])

    assert error.exit_code == 93
    assert "broke down after step 20" in error.cause
    assert "attempt 2: Fault (81): cause 2; attempt 3 died without a word; attempt 4: Fault (82): cause 4." in str(
        error
    )


@pytest.mark.parametrize(
    ("attempts", "loops"),
    [
        ([past(1, 81), past(2, 81)], False),
        ([past(1, 70), past(2, 80), past(3, None)], True),
        ([past(1, 81), past(2, 75), past(3, 81), past(4, 81)], False),
        ([past(1, 81), past(2, 81), past(3, 93)], False),
        ([past(1, 81), past(2, 81), past(3, 93), past(4, 81), past(5, 81)], False),
        ([past(1, 81), past(2, 81), past(3, 93), past(4, 81), past(5, 81), past(6, 81)], True),
        ([past(1, 81, durable=10), past(2, 81, durable=10), past(3, 81, durable=10)], False),
        ([past(1, 81, durable=10), *(past(number, 81, durable=10) for number in (2, 3, 4))], True),
        ([past(1, 81, durable=10), past(2, 81, 10), past(3, 81, 10), past(4, 81, durable=20)], False),
        ([past(1, 81, durable=10), past(2, 81, 10), past(3, 81, 10), past(4, 81, durable=None)], True),
        ([past(1, 81), past(2, 81), past(3, None, ending=True)], False),
        ([past(1, 81), past(2, 81), past(3, 80, phase="inspect")], False),
        ([past(1, 81), past(2, 81), past(3, None, phase="publish", step=9)], True),
        ([past(1, 81), past(2, 81), Past(3, None, None)], False),
        ([past(1, 84), past(2, 84), past(3, 84)], False),
        ([], False),
    ],
    ids=[
        "two are too few",
        "bugs, hosts and deaths count",
        "a preemption breaks the chain",
        "a refusal breaks it",
        "after a refusal two more tries",
        "and a third",
        "the first one made progress",
        "nobody after it did",
        "the last one did",
        "lost ground is no progress",
        "told to stop",
        "not yet in training",
        "after training",
        "never heard of",
        "an upload is no crash",
        "no attempts",
    ],
)
def test_what_makes_a_crash_loop(attempts, loops):
    assert (crash_loop(attempts) is not None) == loops


def test_the_attempt_that_fails_for_the_third_time_can_say_so_itself(folder, take):
    for _ in range(2):
        take(folder).end(ended_with(GpuFault("fell off the bus")))
    third = take(folder)
    last = ended_with(GpuFault("fell off the bus"))

    assert crash_loop(third.earlier) is None
    assert "attempt 3: GpuFault (81)" in crash_loop([*third.earlier, third.past(last)]).cause
