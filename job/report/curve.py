"""The curve of training, read for the user: what it shows, by which figures, and which setting to change."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from job.records import CurveFinding, LogEntry
from job.report.series import SPIKE_DEVIATIONS, Swing, find_spikes, find_swing, noise, trend

FEWEST = 10  # log lines: with fewer, a third is no sample of either end
SURE_Z = 3.3  # one false alarm in 2,000 of a normal trend
LIKELY_Z = 2.33  # one in 100, for what is only added to a finding
HINT_Z = 2.5  # one in 80: not sure enough for a gain, and too much for none
STEEP_Z = 4.0  # of a difference between medians, whose noise is itself an estimate
MEDIAN_ERROR = 1.2533  # of a median, in standard errors of a mean: sqrt(pi / 2), Laplace 1818

MATTERS = 0.01  # of the level where it began: a loss that falls by less has not been trained
# Where more than this share of it could hide in the noise, and more than this much of that, nothing can be said.
UNSEEN, UNSEEN_NOISE = 0.05, 1.5
LATER = 0.4  # of the run, after which a plateau gains nothing: of two epochs, the second may bring all there is
FLAT_SHARE = 0.1  # of the whole gain, at most, in what is later
LOST_SHARE = 0.2  # of what was gained before, at least, given back later by a curve that diverges
EVAL_MATTERS = 0.01  # of the lowest evaluation: the same rows each time, so it hardly varies by itself
EVAL_WIGGLE = 2.0  # times the largest step in the wrong direction


@dataclass(frozen=True)
class Curve:
    """What counts, at each log line that has it."""

    name: str
    sign: int  # -1 for what should rise
    steps: list[int]
    values: list[float]  # times sign: lower is better
    learning_rate: str  # its peak

    def at(self, *values: float) -> list[str]:
        """As they were logged."""
        return [f"{self.sign * value + 0.0:.4g}" for value in values]

    def way(self, change: float) -> str:
        """Which way *change*, of the values here, went in the log."""
        return "rises" if change * self.sign > 0 else "falls"


def read_curve(method: str, history: Sequence[LogEntry], eval_history: Sequence[LogEntry]) -> tuple[CurveFinding, ...]:
    """What the log of training by *method* shows, the main finding first. Of `rloo` and `grpo` the reward counts, which
    should rise; of all others the loss."""
    name, sign = ("reward", -1) if method in ("rloo", "grpo") else ("loss", 1)
    curve = _curve(name, sign, history)
    if len(curve.values) < FEWEST:
        return (_too_short(curve),)
    memorised = _overfitting(curve, _curve(f"eval_{name}", sign, eval_history))
    swing = find_swing(curve.values)
    course, swinging = _course(curve, swing.size if swing else 0.0), _oscillating(curve, swing) if swing else None
    if memorised or swinging:  # that more of the same would help is no advice then
        course = course.model_copy(update={"advice": ""})
    shown = course if course.pattern == "converging" or not (memorised or swinging) else None
    return tuple(finding for finding in (memorised, swinging, shown, _spikes(curve, history)) if finding)


def _curve(name: str, sign: int, history: Sequence[LogEntry]) -> Curve:
    told = [(entry.step, entry.values[name]) for entry in history if math.isfinite(entry.values.get(name, math.nan))]
    peak = max((entry.values.get("learning_rate", 0.0) for entry in history), default=0.0)
    rate = f"JOB_LEARNING_RATE (up to {peak:.2g})" if peak else "JOB_LEARNING_RATE"
    return Curve(name, sign, [step for step, _ in told], [sign * value for _, value in told], rate)


def _too_short(curve: Curve) -> CurveFinding:
    count = len(curve.values)
    cause = f"{count} log lines with a {curve.name} are too few to tell its course from noise, which {FEWEST} may."
    return CurveFinding(pattern="too_short", evidence=cause, advice="Lower JOB_LOGGING_STEPS, or train for more steps.")


def _course(curve: Curve, swing: float) -> CurveFinding:
    """Where it goes, by more than it swings: exactly one of converging, plateau, diverging and too_short."""
    values, sigma = curve.values, noise(curve.values)
    tenth = max(3, len(values) // 10)
    start, end = statistics.median(values[:tenth]), statistics.median(values[-tenth:])
    steep = values[0] - end > SPIKE_DEVIATIONS * sigma * _first_noise(curve.steps)
    start = max(start, values[0]) if steep else start
    later = values[int(LATER * len(values)) :]
    middle, matters = statistics.median(later[:tenth]), max(MATTERS * abs(start), swing)
    if trend(values) >= SURE_Z and end - start > matters:
        return _diverging(curve, 0, start, end)
    if trend(later) >= SURE_Z and end - middle > max(LOST_SHARE * (start - middle), matters):
        return _diverging(curve, len(values) - len(later), middle, end)
    error = _error(sigma, tenth)
    if (steep or start - end > STEEP_Z * error or trend(values) <= -SURE_Z) and start - end > matters:
        flat = middle - end + 2 * error < FLAT_SHARE * (start - end)
        return _fallen(curve, start, end, sigma) if flat else _converging(curve, start, end, sigma)
    return _unmoved(curve, start, end, sigma)


def _first_noise(steps: list[int]) -> float:
    """How much noisier the first line is than others: it is the mean over one step, they over JOB_LOGGING_STEPS."""
    return math.sqrt(max(1, steps[2] - steps[1]))


def _error(sigma: float, count: int) -> float:
    """Standard error of the difference between two medians of *count* points each."""
    return MEDIAN_ERROR * sigma * math.sqrt(2 / count)


def _unmoved(curve: Curve, start: float, end: float, sigma: float) -> CurveFinding:
    """A plateau, unless a change that counts could be hidden by the noise."""
    values, third = curve.values, len(curve.values) // 3
    hidden = abs(statistics.median(values[:third]) - statistics.median(values[-third:])) + 2 * _error(sigma, third)
    hinted = abs(start - end) > max(MATTERS * abs(start), HINT_Z * _error(sigma, max(3, len(values) // 10)))
    begin, final = curve.at(start, end)
    if hinted or hidden > max(UNSEEN * abs(start), UNSEEN_NOISE * sigma):
        cause = (
            f"The {curve.name} goes from {begin} to {final} in {len(values)} log lines and varies by {sigma:.2g} from "
            "one to the next: they are too few to tell a change from noise."
        )
        return CurveFinding(
            pattern="too_short", evidence=cause, advice="Train for more steps, or lower JOB_LOGGING_STEPS."
        )
    cause = f"The {curve.name} hardly moves: from {begin} to {final}, and varies by {sigma:.2g} from line to line."
    return CurveFinding(pattern="plateau", evidence=cause, advice=f"Raise {curve.learning_rate}, at first tenfold.")


def _fallen(curve: Curve, start: float, end: float, sigma: float) -> CurveFinding:
    reached = next(i for i, value in enumerate(curve.values) if value <= end + max(sigma, FLAT_SHARE * (start - end)))
    begin, final = curve.at(start, end)
    cause = (
        f"The {curve.name} {curve.way(end - start)} from {begin} to {final} until step {curve.steps[reached]} and "
        f"stays there until step {curve.steps[-1]}."
    )
    advice = f"JOB_NUM_TRAIN_EPOCHS could be lower; to come further, raise {curve.learning_rate}."
    return CurveFinding(pattern="plateau", evidence=cause, advice=advice)


def _converging(curve: Curve, start: float, end: float, sigma: float) -> CurveFinding:
    begin, final = curve.at(start, end)
    way = curve.way(end - start)
    cause = f"The {curve.name} {way} from {begin} to {final}"
    cause += f", {(start - end) / sigma:.3g} times the noise from line to line" if sigma else ""
    last = curve.values[-(len(curve.values) // 3) :]
    if trend(last) > -LIKELY_Z or last[0] - end < FLAT_SHARE * (start - end):
        return CurveFinding(pattern="converging", evidence=f"{cause}.")
    advice = "Raise JOB_NUM_TRAIN_EPOCHS: the end is not reached."
    return CurveFinding(pattern="converging", evidence=f"{cause}, and still {way} at the end.", advice=advice)


def _diverging(curve: Curve, since: int, low: float, end: float) -> CurveFinding:
    begin, final = curve.at(low, end)
    cause = f"The {curve.name} {curve.way(end - low)} from {begin} at step {curve.steps[since]} to {final} at the end."
    advice = f"Lower {curve.learning_rate}, at first to a third, or raise JOB_WARMUP_STEPS."
    return CurveFinding(pattern="diverging", evidence=cause, advice=advice)


def _oscillating(curve: Curve, swing: Swing) -> CurveFinding:
    lines = len(curve.values)
    steps = swing.period * (curve.steps[-1] - curve.steps[0]) / (lines - 1)
    cause = (
        f"The {curve.name} goes up and down by {swing.size:.2g} about every {steps:.0f} steps, "
        f"{lines / swing.period:.0f} times; points half of that apart correlate by {swing.correlation:.2f}, noise by "
        "about 0."
    )
    advice = f"Lower {curve.learning_rate}, at first to a third, or raise JOB_GLOBAL_BATCH_SIZE."
    return CurveFinding(pattern="oscillating", evidence=cause, advice=advice)


def _spikes(curve: Curve, history: Sequence[LogEntry]) -> CurveFinding | None:
    spikes = find_spikes(curve.values)
    if not spikes:
        return None
    worst = max(spikes, key=lambda spike: curve.values[spike.index] - spike.level)
    step = curve.steps[worst.index]
    level, top = curve.at(worst.level, curve.values[worst.index])
    norms = [entry.values["grad_norm"] for entry in history if entry.step == step and "grad_norm" in entry.values]
    cause = f"The {curve.name} jumps from {level} to {top} at step {step}"
    cause += f", {worst.deviations:.0f} times the noise" if math.isfinite(worst.deviations) else ""
    cause += f", with grad_norm {norms[0]:.3g}" if norms else ""
    cause += f"; {len(spikes)} such jumps in all." if len(spikes) > 1 else ", and comes back."
    advice = f"Look at the rows of that step; lower JOB_MAX_GRAD_NORM, or {curve.learning_rate} if it happens again."
    return CurveFinding(pattern="spike", evidence=cause, advice=advice)


def _overfitting(curve: Curve, evals: Curve) -> CurveFinding | None:
    """Of evaluations that rise since their lowest by more than they wiggle, while training goes on to gain."""
    values = evals.values
    if len(values) < 3:  # two show a direction but no wiggle
        return None
    low, end = min(values), values[-1]
    lowest = values.index(low)
    moves = [after - before for before, after in pairwise(values)]
    wrong = [*moves[:lowest], *(-move for move in moves[lowest:])]
    gain = _gain_since(curve, evals.steps[lowest])
    if gain is None or end - low <= max(EVAL_MATTERS * abs(low), EVAL_WIGGLE * max(0.0, *wrong)):
        return None
    then, now, before, after = curve.at(low, end, *gain)
    cause = (
        f"{evals.name} {curve.way(end - low)} from {then} at step {evals.steps[lowest]} to {now} at step "
        f"{evals.steps[-1]}, while the {curve.name} in training {curve.way(low - end)} from {before} to {after}."
    )
    advice = f"Lower JOB_NUM_TRAIN_EPOCHS or {curve.learning_rate}, or give more rows."
    return CurveFinding(pattern="overfitting", evidence=cause, advice=advice)


def _gain_since(curve: Curve, step: int) -> tuple[float, float] | None:
    """The level of training at *step* and at the end, if that is lower."""
    here = sum(told <= step for told in curve.steps)
    count = max(1, min(here, len(curve.values) - here, len(curve.values) // 10))
    before = statistics.median(curve.values[max(0, here - count) : here] or curve.values[:count])
    after = statistics.median(curve.values[-count:])
    return (before, after) if before - after > _error(noise(curve.values), count) else None
