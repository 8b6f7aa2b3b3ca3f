"""Axes whose numbers are nice, curves that keep their spikes, and a histogram that adds up."""

import math
import re

import pytest

from job.report.axis import number, step_axis, value_axis
from job.report.charts import BUCKETS, Series, drawable, histogram, line_chart, smoothed, thin


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.41, 1.83], ["0", "0.5", "1.0", "1.5", "2.0"]),
        ([0.0, 2e-4], ["0", "5e-5", "1e-4", "1.5e-4", "2e-4"]),
        ([-3.0, 8.0], ["-5", "0", "5", "10"]),
        ([103.0, 119.0], ["100", "105", "110", "115", "120"]),
        ([12_345.0, 54_321.0], ["10,000", "20,000", "30,000", "40,000", "50,000", "60,000"]),
        ([0.3, 0.4, 0.5, 700.0], ["1e-1", "1e0", "1e1", "1e2", "1e3"]),  # one spike would flatten the others
    ],
)
def test_the_numbers_at_an_axis_are_nice_and_hold_all_values(values, labels):
    axis = value_axis(values)

    assert [axis.label(tick) for tick in axis.ticks] == labels
    assert all(0 <= axis.at(value) <= 1 for value in values)


@pytest.mark.parametrize("value", [0.0, 1.5, -2.0, 1e-320, 1e99, 0.1 + 0.2])
def test_equal_values_stand_in_the_middle(value):
    axis = value_axis([value, value])

    assert 0.2 < axis.at(value) < 0.8
    assert all(map(math.isfinite, axis.ticks))


@pytest.mark.parametrize(
    ("last", "ticks"), [(0, [0, 1]), (1, [0, 1]), (7, [0, 2, 4, 6]), (3000, [0, 1000, 2000, 3000])]
)
def test_steps_are_whole_numbers_that_end_with_the_last(last, ticks):
    axis = step_axis(last)

    assert list(axis.ticks) == ticks
    assert axis.high == max(1, last)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (0.48213, "0.4821"), (1234.5, "1,234"), (2e-4, "2e-4"), (1.98765e-4, "1.988e-4"), (-0.5, "-0.5"),
        (3.2e9, "3.2e9"), (math.nan, "nan"), (math.inf, "inf"),
    ],
)  # fmt: skip
def test_a_number_has_four_digits(value, text):
    assert number(value) == text


def test_a_long_curve_is_thinned_and_keeps_its_ends_and_every_extreme():
    points = [(step, math.sin(step)) for step in range(1, 50_001)]
    points[31_234] = (31_235, 9.0)
    points[12_000] = (12_001, -9.0)

    kept = thin(points)

    assert len(kept) <= 2 * BUCKETS + 1
    assert {(31_235, 9.0), (12_001, -9.0), points[-1]} <= set(kept)
    assert kept == sorted(kept)
    assert kept[0][0] < 400


def test_what_is_no_number_is_not_drawn():
    points = [(1, 1.0), (2, math.nan), (3, math.inf), (4, -math.inf), (5, 1e200), (6, 2.0)]

    assert drawable(points) == [(1, 1.0), (6, 2.0)]


def test_a_single_spike_does_not_move_the_smooth_line():
    points = [(step, 0.5) for step in range(1, 301)]
    points[150] = (151, 50.0)

    assert {value for _, value in smoothed(points)} == {0.5}
    assert len(smoothed([(step, 0.0) for step in range(50_000)])) <= 4 * BUCKETS


@pytest.mark.parametrize("points", [[(10, 0.5)], [(0, 0.0)], [(3, 1e-300), (4, 1e99)], [(5, 1.0), (5, 2.0)]])
def test_every_place_in_a_drawing_lies_inside_it(points):
    drawing = line_chart("Loss", [Series("loss", points), Series("eval_loss", points, marked=True)], points[-1][0], 1)

    assert "nan" not in drawing
    assert "inf" not in drawing
    assert all(0 <= float(place) <= 100 for place in re.findall(r'(?:x|x1|x2|cx|width)="([^"]*)%"', drawing))
    for corners in re.findall(r'points="([^"]*)"', drawing):
        pairs = [tuple(map(float, corner.split(","))) for corner in corners.split()]
        assert all(0 <= across <= 1000 and 0 <= down <= 200 for across, down in pairs)


def shares(lengths: list[int], max_length: int = 2048) -> list[float]:
    return [float(share) for share in re.findall(r"tokens: ([\d.]+)%", histogram(lengths, max_length))]


@pytest.mark.parametrize(
    "lengths",
    [[7] * 21, [1] * 21, list(range(1, 102, 5)), [20, *range(60, 620, 30), 1200, 2048], [3, 131_072], [2048] * 21],
)
def test_the_bars_of_a_histogram_hold_all_rows(lengths):
    assert sum(shares(lengths)) == pytest.approx(100, abs=2)  # each is rounded to a tenth
    assert len(shares(lengths)) < 60


def test_rows_cut_to_one_length_stand_in_one_bar():
    half_cut = [*range(100, 1100, 100), *[2048] * 11]

    assert max(shares(half_cut)) == shares(half_cut)[-1] == pytest.approx(50, abs=5)
    assert "max_length 2,048" in histogram(half_cut, 2048)
    assert "max_length" not in histogram(half_cut, 131_072)
