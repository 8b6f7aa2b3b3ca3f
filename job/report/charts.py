"""Charts as SVG that fits any width without its text becoming smaller: across in percent, upwards in pixels."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from markupsafe import Markup

from job.report.axis import Axis, nice, number, share_axis, step_axis, value_axis

HEIGHT = 200  # pixels, without the numbers below
# Of a longer curve the least and the greatest value of each bucket are drawn, so that no spike is lost.
BUCKETS = 150
_BINS = 24
# Beyond any float32, and small enough that no difference of two is infinite.
_LARGEST = 1e100

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Series:
    """One line. *points* are optimizer steps, ascending, with values that are finite."""

    name: str
    points: Points
    marked: bool = False  # every point gets a dot
    smooth: bool = False  # drawn as its median, the values themselves faintly


def drawable(points: Points) -> Points:
    """*points* without NaN, infinity, and what no training can mean."""
    return [(step, value) for step, value in points if math.isfinite(value) and abs(value) < _LARGEST]


def thin(points: Points) -> Points:
    """At most two points per bucket, its least and its greatest in their order, and the last one."""
    if len(points) <= 2 * BUCKETS:
        return points
    kept = []
    for bucket in range(BUCKETS):
        part = range(bucket * len(points) // BUCKETS, (bucket + 1) * len(points) // BUCKETS)
        least, greatest = (choose(part, key=lambda index: points[index][1]) for choose in (min, max))
        kept += [points[index] for index in sorted({least, greatest})]
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def smoothed(points: Points) -> Points:
    """The medians over 2 % of all points on either side, which single spikes do not move, at as many places as there
    are to be drawn."""
    reach, last = max(1, len(points) // 50), len(points) - 1
    places = [*range(0, last, max(1, last // (2 * BUCKETS))), last]
    return [
        (points[place][0], median(value for _, value in points[max(0, place - reach) : place + reach + 1]))
        for place in places
    ]


def line_chart(title: str, series: Sequence[Series], last_step: int, resumed_at: int = 0) -> Markup:
    """*series*, at least one with a point, over the steps of a training."""
    x, y = step_axis(last_step), value_axis([value for line in series for _, value in line.points])
    said = "; ".join(_said(line) for line in series if line.points)
    parts = [*_grid(x, y), *_resumed(x, resumed_at), _lines(series, x, y), *_readings(series[0], x)]
    for index, line in enumerate(series):
        parts += _dots(line, x, y, index)
    return _svg(f"{title} by optimizer step. {said}{'. Logarithmic axis' if y.log else ''}.", parts)


def histogram(lengths: Sequence[int], max_length: int) -> Markup:
    """The share of rows by length, from *lengths*: of the shortest row, of those at every further equal share of rows,
    and of the longest. Between two of them rows are taken to be spread evenly."""
    width = math.ceil(nice(max(1, lengths[-1]) / _BINS))
    bins = _shares(lengths, width)
    x, y = step_axis(len(bins) * width), share_axis(max(bins))
    parts = [*_grid(x, y, percent=True)]
    for index, share in enumerate(bins):
        first, high = index * width, HEIGHT * y.at(share)
        parts.append(
            Markup(
                '<rect class="bar" x="{:.2f}%" y="{:.1f}" width="{:.2f}%" height="{:.1f}"><title>{}</title></rect>'
            ).format(
                100 * x.at(first) + 0.1, HEIGHT - high, 100 * x.at(width) - 0.2, high,
                f"{first:,} to {first + width - 1:,} tokens: {share:.1%} of the rows",
            )
        )  # fmt: skip
    if max_length <= x.high:
        parts += _marker(100 * x.at(max_length), f"max_length {max_length:,}")
    middle = lengths[len(lengths) // 2]
    said = f"from {lengths[0]:,} to {lengths[-1]:,} tokens, half of the rows up to {middle:,}"
    return _svg(f"Lengths of the training rows: {said}.", parts)


def _shares(lengths: Sequence[int], width: int) -> list[float]:
    """The share of rows in each bin of *width* tokens, the first of which begins at 0."""
    bins = [0.0] * (lengths[-1] // width + 1)
    each = 1 / (len(lengths) - 1)
    for low, high in pairwise(lengths):
        tokens = range(low, max(low, high - 1) + 1)  # whole numbers; equal ends are rows of one length
        for index in range(tokens[0] // width, tokens[-1] // width + 1):
            inside = min(tokens[-1], index * width + width - 1) - max(tokens[0], index * width) + 1
            bins[index] += each * inside / len(tokens)
    return bins


def _said(line: Series) -> str:
    (first, begin), (last, end) = line.points[0], line.points[-1]
    least, greatest = (choose(value for _, value in line.points) for choose in (min, max))
    return (
        f"{line.name}: {number(begin)} at step {first:,}, {number(end)} at step {last:,}, "
        f"between {number(least)} and {number(greatest)}"
    )


def _grid(x: Axis, y: Axis, *, percent: bool = False) -> Iterator[Markup]:
    for tick in y.ticks:
        at = HEIGHT * (1 - y.at(tick))
        text = f"{tick * 100:g}%" if percent else y.label(tick)
        yield Markup('<line class="grid" x2="100%" y1="{0:.1f}" y2="{0:.1f}"/>').format(at)
        yield Markup('<text class="y" x="-8" y="{:.1f}">{}</text>').format(at + 4, text)
    for tick in x.ticks:
        yield Markup('<text class="x" x="{:.2f}%" y="{}">{}</text>').format(
            100 * x.at(tick), HEIGHT + 20, f"{tick:,.0f}"
        )


def _lines(series: Sequence[Series], x: Axis, y: Axis) -> Markup:
    """They know no percent, so they are drawn on a width of 1,000 that is stretched; their strokes are not."""
    drawn = Markup("").join(part for index, line in enumerate(series) for part in _line(line, x, y, f"s{index}"))
    stretched = Markup('<svg viewBox="0 0 1000 {0}" preserveAspectRatio="none" width="100%" height="{0}">{1}</svg>')
    return stretched.format(HEIGHT, drawn)


def _line(line: Series, x: Axis, y: Axis, css: str) -> Iterator[Markup]:
    drawn = [(line.points, f"{css} faint"), (smoothed(line.points), css)] if line.smooth else [(line.points, css)]
    for points, look in drawn:
        corners = " ".join(f"{1000 * x.at(step):.1f},{HEIGHT * (1 - y.at(value)):.1f}" for step, value in thin(points))
        yield Markup('<polyline class="{}" points="{}"/>').format(look, corners)


def _dots(line: Series, x: Axis, y: Axis, index: int) -> Iterator[Markup]:
    shown = thin(line.points) if line.marked or len(line.points) == 1 else []
    for step, value in shown:
        yield Markup('<circle class="s{}" cx="{:.2f}%" cy="{:.1f}" r="4"><title>{}</title></circle>').format(
            index, 100 * x.at(step), HEIGHT * (1 - y.at(value)), f"step {step:,}: {line.name} {number(value)}"
        )


def _readings(line: Series, x: Axis) -> Iterator[Markup]:
    """Upright bands, each of which tells the value at its place to a mouse that rests there."""
    points = thin(line.points)
    places = [100 * x.at(step) for step, _ in points]
    edges = [0.0, *((left + right) / 2 for left, right in pairwise(places)), 100.0]
    for (step, value), left, right in zip(points, edges, edges[1:], strict=False):
        yield Markup('<rect class="reading" x="{:.2f}%" width="{:.2f}%" height="{}"><title>{}</title></rect>').format(
            left, right - left, HEIGHT, f"step {step:,}: {line.name} {number(value)}"
        )


def _resumed(x: Axis, step: int) -> Iterable[Markup]:
    return _marker(100 * x.at(step), "resumed") if step else ()


def _marker(percent: float, text: str) -> Iterator[Markup]:
    """An upright line, with its *text* on the side where there is room."""
    yield Markup('<line class="marker" x1="{0:.2f}%" x2="{0:.2f}%" y2="{1}"/>').format(percent, HEIGHT)
    side, shift = ("end", -6) if percent > 50 else ("start", 6)
    yield Markup('<text class="marker {}" x="{:.2f}%" dx="{}" y="12">{}</text>').format(side, percent, shift, text)


def _svg(said: str, parts: Iterable[Markup]) -> Markup:
    return Markup('<div class="plot"><svg role="img" aria-label="{}" width="100%" height="{}">{}</svg></div>').format(
        said, HEIGHT, Markup("").join(parts)
    )
