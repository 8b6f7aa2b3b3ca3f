"""What stands out of a noisy series, what swings in it, and where it goes. In all of it lower is better."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

# The spike score of OLMo 2 (2025) counts what is 7 deviations off a rolling mean; `job/train/health.py` takes 8, as the
# losses of batches have a longer right tail than a normal distribution.
SPIKE_DEVIATIONS = 8.0
SPIKE_SHARE = 0.1  # of the level around it: less is seen by nobody, however smooth the curve
SPIKE_REACH = 25  # points on either side: their median outlasts 12 of a tail, and moves by a quarter of the noise

LAGS = 8  # half a period, in blocks
CYCLES = 3  # fewer are no oscillation but a course
BLOCKS = 32  # the fewest that show CYCLES at several lags
# White noise stays within z / sqrt(n) (Bartlett 1946). Beyond -0.5 the swing is half of all that varies.
SWING_Z, SWING_CORRELATION = 3.3, -0.5
WINSOR = 1.5  # deviations to which a spike, or what a steep beginning leaves, is cut (Huber 1964)
SWING_SHARE, SWING_LEVEL = 0.1, 0.02  # of all that the series covers, and of its level
RISING = 0.2  # of a swing, on average over half a period: 1 / pi in a sine, near 0 in a staircase of epochs

TREND_BLOCKS = 40  # makes n² pairs cheap and the noise of each nearly normal


@dataclass(frozen=True)
class Spike:
    """Points in a row far above those on both sides."""

    index: int  # of the highest
    level: float  # of those around it
    deviations: float


@dataclass(frozen=True)
class Swing:
    """Up and down, again and again."""

    period: float  # in points
    size: float  # from low to high
    correlation: float  # between points half a period apart


def spread(values: Sequence[float]) -> float:
    """Standard deviation as outliers do not move it: from the median absolute deviation (Rousseeuw and Croux 1993), or
    from the mean one where more than half of *values* are equal (Iglewicz and Hoaglin 1993)."""
    center = statistics.median(values)
    deviations = [abs(value - center) for value in values]
    return 1.4826 * statistics.median(deviations) or 1.2533 * statistics.fmean(deviations)


def noise(values: Sequence[float]) -> float:
    """Standard deviation from point to point, whatever the course: from differences (von Neumann et al. 1941)."""
    return spread([after - before for before, after in pairwise(values)]) / math.sqrt(2)


def find_spikes(values: Sequence[float]) -> list[Spike]:
    """Each group of neighbours that lie above the medians of both sides by what is no noise there or anywhere."""
    reach = max(3, min(SPIKE_REACH, len(values) // 8))
    sides = [(values[max(0, i - reach) : i], values[i + 1 : i + 1 + reach]) for i in range(len(values))]
    levels = [max(map(statistics.median, pair)) if all(pair) else math.inf for pair in sides]
    around = [statistics.median([*before, *after]) for before, after in sides]
    everywhere = spread([value - level for value, level in zip(values, around, strict=True)])
    spikes: list[Spike] = []
    last = -2
    for i, (value, level) in enumerate(zip(values, levels, strict=True)):
        if value - level <= max(SPIKE_DEVIATIONS * everywhere, SPIKE_SHARE * abs(level)):
            continue
        before, after = sides[i]
        deviation = max(everywhere, noise([*before, *after]))  # more where the curve is wilder, as at its beginning
        if value - level <= SPIKE_DEVIATIONS * deviation:
            continue
        spike = Spike(i, level, (value - level) / deviation if deviation else math.inf)
        if last < i - 1:
            spikes.append(spike)
        elif value > values[spikes[-1].index]:
            spikes[-1] = spike
        last = i
    return spikes


def find_swing(values: Sequence[float]) -> Swing | None:
    """The strongest oscillation of any period from 2 points to a third of the series: means of blocks that are 1, 2, 4,
    … points wide, each with its autocorrelation around a moving mean (Box and Jenkins 1970)."""
    found, width = [], 1
    while width == 1 or len(values) // width >= BLOCKS:
        blocks = [statistics.fmean(values[i : i + width]) for i in range(0, len(values) - width + 1, width)]
        swing = _swing_of(blocks)
        if swing and (width == 1 or swing.size > noise(values)):  # what the noise of a point hides is seen by nobody
            found.append(Swing(swing.period * width, swing.size, swing.correlation))
        width *= 2
    return min(found, key=lambda swing: swing.correlation, default=None)


def _swing_of(blocks: list[float]) -> Swing | None:
    n = len(blocks)
    rest = [value - statistics.fmean(_around(blocks, i)) for i, value in enumerate(blocks)]
    most = WINSOR * spread(rest)
    rest = [min(max(value, -most), most) for value in rest]
    power = math.fsum(value * value for value in rest)
    if not power:
        return None
    lags = range(1, min(LAGS, n // (2 * CYCLES)) + 1)
    correlations = {k: math.fsum(a * b for a, b in zip(rest, rest[k:], strict=False)) / power for k in lags}
    lag = min(correlations, key=correlations.__getitem__)
    tenths = statistics.quantiles(rest, n=10)
    size = tenths[-1] - tenths[0]
    settled = statistics.quantiles(
        blocks[n // 5 :], n=20
    )  # a steep beginning or a spike says nothing of what is between
    least = max(SWING_SHARE * (settled[-1] - settled[0]), SWING_LEVEL * abs(statistics.median(blocks)))
    rising = statistics.fmean(max(0.0, after - before) for before, after in zip(blocks, blocks[lag:], strict=False))
    real = correlations[lag] < min(SWING_CORRELATION, -SWING_Z / math.sqrt(n))
    return Swing(2.0 * lag, size, correlations[lag]) if real and size > least and rising > RISING * size else None


def _around(values: list[float], index: int) -> list[float]:
    """As many on either side, up to LAGS: a straight line leaves nothing, at the ends neither."""
    reach = min(index, len(values) - 1 - index, LAGS)
    return values[index - reach : index + reach + 1]


def trend(values: Sequence[float]) -> float:
    """z of Mann (1945) and Kendall (1975): normal with deviation 1 where there is none, negative where *values* fall.
    Of at most TREND_BLOCKS medians of neighbours."""
    count = min(TREND_BLOCKS, len(values))
    edges = [i * len(values) // count for i in range(count + 1)]
    medians = [statistics.median(values[a:b]) for a, b in pairwise(edges)]
    score = sum((b > a) - (b < a) for i, a in enumerate(medians) for b in medians[i + 1 :])
    deviation = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    return (score - math.copysign(1, score)) / deviation if score else 0.0
