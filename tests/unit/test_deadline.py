"""Time and money are counted over all attempts."""

import pytest

from job.deadline import find_deadline, reserve_s
from job.pace import Measured
from job.records import Progress, Pulse
from job.spec import JobSpec


def spec(**settings: object) -> JobSpec:
    return JobSpec(model="org/base", **settings)


def pulse(hours: float, num_gpus: int = 1) -> Pulse:
    return Pulse(beat=9, elapsed_s=hours * 3600, num_gpus=num_gpus, progress=Progress(phase="train"))


def test_without_limits_there_is_no_deadline():
    assert find_deadline(spec(), 8, 0.0, [pulse(100)]) is None


def test_the_hours_of_earlier_attempts_count():
    deadline = find_deadline(spec(max_hours=3), 8, 1000.0, [pulse(1), pulse(0.5)])

    assert deadline.ends_at == 1000.0 + 1.5 * 3600
    assert "JOB_MAX_HOURS=3" in str(deadline.error())


def test_money_is_spent_by_every_gpu_of_each_attempts_own_machine():
    limits = spec(max_cost=100, gpu_hour_price=2.5)  # 40 GPU hours

    deadline = find_deadline(limits, 8, 0.0, [pulse(4, num_gpus=4), pulse(2, num_gpus=2)])

    assert deadline.ends_at == pytest.approx((40 - 16 - 4) / 8 * 3600)
    assert "JOB_MAX_COST=100 at JOB_GPU_HOUR_PRICE=2.5" in str(deadline.error())


def test_the_limit_that_comes_first_holds():
    both = spec(max_hours=2, max_cost=10, gpu_hour_price=10)

    assert find_deadline(both, 1, 0.0, []).ends_at == 3600
    assert find_deadline(both, 4, 0.0, []).ends_at == 900


def test_what_steps_evaluations_saving_and_uploading_took_is_kept_in_reserve():
    nothing = reserve_s(Measured())

    assert reserve_s(Measured(save_s=3.0, upload_s=60.0)) - nothing >= 3.0 + 2 * 60.0
    assert reserve_s(Measured(step_s=15.0, eval_s=40.0)) - nothing == 2 * 15.0 + 40.0
