"""Steps, tokens, hours and money, by hand."""

import pytest

from job.candidates import expected_longest
from job.facts.gpus import parse_gpus, speed_of
from job.forecast import forecast, how_fast
from job.records import DatasetFacts, Gpu
from job.spec import JobSpec
from tests.unit.test_fallback import plan

ROWS = DatasetFacts(
    rows=1000, epoch_rows=1000, sampled=False, mean_tokens=100, max_tokens=200, lengths=(), trained_share=1,
    format="text", format_reason="",
)  # fmt: skip


def spec(**settings: object) -> JobSpec:
    return JobSpec(model="org/base", dataset_uri="org/rows", num_train_epochs=2, **settings)


def test_time_is_tokens_over_speed_and_money_is_time_times_gpus():
    found = forecast(spec(gpu_hour_price=3), plan(per_device=4, accumulation=2), ROWS, tokens_per_s=100, why="")

    assert found.steps == 126  # 1,000 rows in steps of 16 are 63 (the last one is smaller), twice
    assert found.tokens == 126 * 16 * 100
    assert found.hours == pytest.approx(201_600 / 100 / 3600, abs=1e-3)
    assert found.cost == pytest.approx(201_600 / 100 / 3600 * 2 * 3, abs=1e-2)


def test_without_a_price_there_is_no_cost():
    assert forecast(spec(), plan(), ROWS, tokens_per_s=100, why="").cost is None


def test_packs_hold_as_many_rows_as_fill_them():
    packed = plan(per_device=1, accumulation=4, packing=True, max_length=500)

    assert forecast(spec(), packed, ROWS, tokens_per_s=100, why="").steps == 52  # 8 packs × 495 tokens are 39.6 rows


def test_the_number_of_steps_may_be_given_or_unknown():
    unknown = ROWS.model_copy(update={"epoch_rows": None})

    assert forecast(spec(max_steps=7), plan(), unknown, tokens_per_s=1, why="").steps == 7
    assert forecast(spec(), plan(), unknown, tokens_per_s=1, why="").hours is None


def test_one_row_is_one_step_an_epoch():
    one = ROWS.model_copy(update={"epoch_rows": 1})

    assert forecast(spec(), plan(per_device=4), one, tokens_per_s=1, why="").steps == 2


def test_the_longest_of_several_rows_is_longer_than_the_mean():
    evenly = tuple(range(0, 2001, 100))

    assert expected_longest(evenly, 1000, 1) == 1000
    assert expected_longest(evenly, 1000, 3) == pytest.approx(1500, rel=0.01)  # n / (n + 1) of the way
    assert expected_longest((), 1000, 3) == 1000


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA A10", 125), ("NVIDIA A10G", 70),
        ("NVIDIA A100-SXM4-40GB", 312), ("NVIDIA A100 80GB PCIe", 312), ("NVIDIA L40S", 362), ("NVIDIA L4", 121),
        ("NVIDIA GH200 480GB", None),
    ],
)  # fmt: skip
def test_a_gpu_is_known_by_the_name_that_nvml_gives_it(name, tflops):
    speed = speed_of(Gpu(name=name, memory_gib=1, compute_capability=(8, 0)))

    assert (speed.tflops if speed else None) == tflops


def test_every_gpu_that_can_be_named_has_a_speed():
    assert how_fast(parse_gpus("2xT4") + parse_gpus("H100")) == (
        "at 42% of the 65 TFLOPS of Tesla T4, stated and not measured"
    )
    assert how_fast((Gpu(name="Voodoo 2", memory_gib=1, compute_capability=(1, 0)),)) is None
