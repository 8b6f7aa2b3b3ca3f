"""The axes of charts: where they begin and end, which numbers stand at them, and how numbers are written."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

# A value so far above the usual one would press all others flat against the foot of a linear axis.
_LOG_FROM = 30


@dataclass(frozen=True)
class Axis:
    low: float
    high: float
    ticks: tuple[float, ...]
    step: float = 1.0  # between two ticks of a linear axis
    log: bool = False

    def at(self, value: float) -> float:
        """Where *value* stands, from 0 (low) to 1 (high)."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return (value - low) / (high - low)

    def label(self, tick: float) -> str:
        if tick == 0:
            return "0"
        if self.log or self.step < 1e-4 or abs(tick) >= 1e7:
            return _scientific(tick)
        return f"{tick:,.{max(0, -math.floor(math.log10(self.step)))}f}"


def step_axis(last_step: int) -> Axis:
    """Steps of the optimizer, from 0 to exactly *last_step*."""
    high = max(1, last_step)
    loose = _linear(0, high)
    step = max(1.0, loose.step)  # there is no half a step
    return Axis(0, high, tuple(tick for tick in loose.ticks if tick <= high and tick % step == 0), step)


def value_axis(values: Sequence[float]) -> Axis:
    """For *values*, at least one and all finite: linear, unless the greatest would dwarf all others."""
    low, high = min(values), max(values)
    if low > 0 and high > _LOG_FROM * median(values):
        return _logarithmic(low, high)
    return _linear(*_apart(low, high))


def share_axis(highest: float) -> Axis:
    """From 0 to *highest* or a little above it."""
    return _linear(0, highest)


def nice(value: float, *, at_least: bool = False) -> float:
    """1, 2, 5 or 10 times a power of ten: about *value*, or the least that is not below it. Heckbert's too."""
    power = 10.0 ** math.floor(math.log10(value))
    limits = (1, 2, 5) if at_least else (1.5, 3, 7)
    digits = zip((1, 2, 5), limits, strict=True)
    return next((digit for digit, limit in digits if value / power <= limit), 10) * power


def number(value: float) -> str:
    """*value* with about four digits."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if not 1e-3 <= abs(value) < 1e7:
        return _scientific(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _apart(low: float, high: float) -> tuple[float, float]:
    """Equal values, as far as the figures of a float tell, get room on both sides."""
    size = max(abs(low), abs(high))
    if high - low > 1e-9 * size:
        return low, high
    return (low - size / 2, high + size / 2) if size > 1e-300 else (-1.0, 1.0)


def _linear(low: float, high: float, count: int = 5) -> Axis:
    """About *count* ticks, the first not above *low* and the last not below *high*.

    Source: P. S. Heckbert, "Nice numbers for graph labels", in Graphics Gems, Academic Press, 1990, pp. 61-63.
    """
    step = nice(nice(high - low, at_least=True) / (count - 1))
    ticks = tuple(number * step for number in range(math.floor(low / step), math.ceil(high / step) + 1))
    return Axis(ticks[0], ticks[-1], ticks, step)


def _logarithmic(low: float, high: float) -> Axis:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = math.ceil((last - first) / 5)
    return Axis(10.0**first, 10.0**last, tuple(10.0**power for power in range(first, last + 1, every)), log=True)


def _scientific(value: float) -> str:
    digits, power = f"{value:.3e}".split("e")
    return f"{float(digits):g}e{int(power)}"
