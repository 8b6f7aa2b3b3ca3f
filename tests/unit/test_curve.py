"""Curves made for each pattern, with many seeds, are told from one another; and what is said of them is so."""

import io
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from job.console import Console
from job.records import CurveFinding, LogEntry
from job.report.curve import FEWEST, read_curve
from job.report.series import find_swing
from job.report.write import reported_curve
from job.rundir import write_json
from job.spec import JobSpec

Make = Callable[[random.Random], list[float]]


def entries(values: Sequence[float], name: str = "loss", every: int = 10, first: int | None = None) -> list[LogEntry]:
    """As the Trainer logs them: step 1, then each *every* steps; or from step *first* on."""
    steps = [1, *(every * i for i in range(1, len(values)))] if first is None else range(first, 10**9, every)
    return [
        LogEntry(step=step, values={name: value, "learning_rate": 2e-4, "grad_norm": 0.7})
        for step, value in zip(steps, values, strict=False)
    ]


def read(
    values: Sequence[float], evals: Sequence[float] = (), method: str = "sft", every: int = 10
) -> tuple[CurveFinding, ...]:
    name = "reward" if method in ("rloo", "grpo") else "loss"
    apart = max(1, every * len(values) // max(1, len(evals) - 1))
    return read_curve(
        method, entries(values, name, every), entries(evals, f"eval_{name}", apart, first=0) if evals else []
    )


def patterns(findings: Sequence[CurveFinding]) -> tuple[str, ...]:
    return tuple(finding.pattern for finding in findings)


def noisy(course: Callable[[float], float], length: int, noise: float) -> Make:
    """*course* of the part of the run that is over, with normal noise."""
    return lambda dice: [course(i / length) + dice.gauss(0, noise) for i in range(length)]


def decay(start: float, end: float, rate: float) -> Callable[[float], float]:
    return lambda part: end + (start - end) * math.exp(-rate * part)


def staircase(epochs: int, climb: float = 0.0) -> Callable[[float], float]:
    """Drops by 0.3 at each epoch's end and climbs by *climb* within."""
    return lambda part: 2 - 0.3 * int(part * epochs) + climb * (part * epochs % 1)


def warmed_up(part: float) -> float:
    """Flat while the learning rate warms up, then falling as it decays by a cosine."""
    return 2.3 if part < 0.1 else 1.4 + 0.45 * (1 + math.cos(math.pi * (part - 0.1) / 0.9))


def wave(cycles: float, height: float, course: Callable[[float], float] = lambda _: 2.0) -> Callable[[float], float]:
    return lambda part: course(part) + height * math.sin(2 * math.pi * cycles * part)


def at(index: int, height: float, make: Make, tail: Sequence[float] = ()) -> Make:
    """*make* with a jump by *height*, which comes back over the shares of it in *tail*."""

    def made(dice: random.Random) -> list[float]:
        values = make(dice)
        for offset, share in enumerate((1.0, *tail)):
            values[index + offset] += height * share
        return values

    return made


def skewed(course: Callable[[float], float], length: int, sigma: float) -> Make:
    """*course* with the noise of batches: relative to the level, with a long right tail."""
    return lambda dice: [course(i / length) * math.exp(dice.gauss(0, sigma)) for i in range(length)]


def alternating(length: int) -> Make:
    return lambda dice: [2 + 0.3 * (-1) ** i + dice.gauss(0, 0.05) for i in range(length)]


def restless(length: int, period: float) -> Make:
    """Swings that neither keep time nor height: an autoregression of second order (Yule 1927)."""

    def made(dice: random.Random) -> list[float]:
        a, b, swings = 2 * 0.97 * math.cos(2 * math.pi / period), -(0.97**2), [0.0, 0.0]
        for _ in range(length + 200):
            swings.append(a * swings[-1] + b * swings[-2] + dice.gauss(0, 1))
        top = max(map(abs, swings[-length:]))
        return [2 + 0.6 * swing / top for swing in swings[-length:]]

    return made


CONVERGING = {
    "12 lines": noisy(decay(2.3, 1.2, 2), 12, 0.03),
    "100 lines": noisy(decay(2.3, 1.2, 2), 100, 0.1),
    "5,000 lines": noisy(decay(2.3, 1.2, 2), 5000, 0.3),
    "without noise": noisy(decay(2.3, 1.2, 2), 200, 0),
    "in a straight line": noisy(lambda part: 2.3 - 0.4 * part, 60, 0.05),
    "from the logarithm of the vocabulary": noisy(decay(11.93, 2.1, 3), 150, 0.1),
    "with noise that falls too": skewed(decay(9, 1.5, 4), 400, 0.1),
    "with skewed noise": skewed(decay(2.3, 1.2, 2), 400, 0.25),
    "with much noise": noisy(decay(2.3, 1.9, 1), 1000, 0.3),
    "warm-up and cosine": noisy(warmed_up, 120, 0.05),
    "two epochs": noisy(staircase(2), 60, 0.05),
    "five epochs": noisy(staircase(5), 200, 0.05),
    "five epochs without noise": noisy(staircase(5), 200, 0),
    "epochs that climb within": noisy(staircase(5, climb=0.1), 200, 0.03),
    "preferences from 0.693": noisy(decay(math.log(2), 0.3, 2), 80, 0.05),
    "preferences down to nothing": skewed(decay(math.log(2), 0.001, 3), 300, 0.3),
    "near zero": skewed(decay(0.01, 0.002, 2), 100, 0.1),
    "late": noisy(lambda part: 0.37 - 0.28 / (1 + math.exp(-12 * (part - 0.6))), 60, 0.003),
    "waves that are small beside it": noisy(wave(15, 0.02, decay(2.3, 1.2, 2)), 300, 0.003),
    "a line that is off by what only such a smooth curve shows": at(40, 0.06, noisy(decay(2.3, 1.2, 2), 100, 0.002)),
    "one noisy line": at(40, 0.3, noisy(decay(2.3, 1.2, 2), 100, 0.06)),
}
PLATEAU = {
    "at once, 12 lines": noisy(lambda _: 2.3, 12, 0.01),
    "at once, 100 lines": noisy(lambda _: 2.3, 100, 0.1),
    "at once, 5,000 lines": noisy(lambda _: 2.3, 5000, 0.3),
    "at once, skewed": skewed(lambda _: 2.3, 500, 0.25),
    "at once, without noise": noisy(lambda _: 2.3, 50, 0),
    "a learning rate far too low": noisy(lambda part: 2.3 - 0.005 * part, 300, 0.0005),
    "preferences": noisy(lambda _: math.log(2), 60, 0.02),
    "after a fall": noisy(decay(2.3, 1.5, 30), 400, 0.02),
    "after a fall of the first line alone": noisy(lambda part: 11.9 if not part else 2.0, 100, 0.05),
    "small waves": noisy(wave(15, 0.01), 300, 0.002),
    "high up": noisy(decay(11.9, 7.2, 20), 150, 0.05),
}
OSCILLATING = {
    "every other line": alternating(40),
    "36 lines": noisy(wave(7, 0.3), 36, 0.05),
    "slow": noisy(wave(6, 0.3), 400, 0.1),
    "fast": noisy(wave(120, 0.3), 600, 0.1),
    "5,000 lines": noisy(wave(25, 0.3), 5000, 0.2),
    "in noise as high": noisy(wave(20, 0.3), 1000, 0.3),
    "without measure": restless(300, 15),
    "after a steep descent": noisy(wave(25, 0.5, decay(11.9, 2, 12)), 500, 0.1),
}
OSCILLATING_TOO = {
    "while it falls": noisy(wave(12, 0.15, decay(2.6, 1.2, 2)), 240, 0.03),
}
SPIKE = {
    "one line": at(60, 1.5, noisy(decay(2.3, 1.2, 2), 100, 0.06)),
    "in 16 lines": at(8, 2.0, noisy(decay(2.3, 1.2, 2), 16, 0.03)),
    "with a tail": at(300, 3.0, noisy(decay(2.3, 1.2, 2), 500, 0.1), (0.8, 0.6, 0.4, 0.2, 0.1)),
    "in a steep descent": at(20, 4.0, noisy(decay(11.9, 2.0, 4), 200, 0.1)),
    "without noise": at(50, 1.0, noisy(decay(2.3, 1.2, 2), 100, 0)),
    "of 5,000 lines": at(2500, 5.0, noisy(decay(2.3, 1.2, 2), 5000, 0.2)),
}
DIVERGING = {
    "from the beginning": noisy(lambda part: 2 + part, 100, 0.1),
    "after a fall": noisy(lambda part: 3 - 4 * part if part < 0.4 else 1.4 + 1.2 * (part - 0.4), 100, 0.05),
}
UNCLEAR = {
    "noise as high as the level, 12 lines": skewed(lambda _: 2.3, 12, 0.5),
    "a fall within the noise": noisy(decay(2.3, 2.2, 1), 20, 0.4),
}
MADE = {
    ("converging",): CONVERGING,
    ("plateau",): PLATEAU,
    ("oscillating",): OSCILLATING,
    ("oscillating", "converging"): OSCILLATING_TOO,
    ("oscillating", "spike"): {"high and once": at(70, 9.0, noisy(wave(12, 0.3), 200, 0.05))},
    ("converging", "spike"): SPIKE,
    ("diverging",): DIVERGING,
    ("too_short",): UNCLEAR,
}
CASES = {(expected, name): make for expected, makes in MADE.items() for name, make in makes.items()}


@pytest.fixture(scope="module")
def found() -> dict[tuple[tuple[str, ...], str], Counter[tuple[str, ...]]]:
    """What each curve shows with many seeds, logged after every step and after every 50 in turn."""
    seeds = {case: range(6 if "5,000" in case[1] else 30) for case in CASES}
    return {
        case: Counter(patterns(read(make(random.Random(seed)), every=(1, 50)[seed % 2])) for seed in seeds[case])
        for case, make in CASES.items()
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0][-1]}: {case[1]}")
def test_a_curve_made_for_a_pattern_shows_that_and_no_other(case, found):
    """Noise alone can look like anything now and then."""
    assert found[case][case[0]] >= 0.9 * found[case].total(), found[case]


def test_of_all_curves_together_one_in_a_hundred_is_taken_for_another(found):
    right = sum(found[case][case[0]] for case in CASES)
    assert right >= 0.99 * sum(counts.total() for counts in found.values())


FALLING = [1.8 - 0.01 * i for i in range(100)]
NOT_OVERFITTING = {
    "falls": [2.0, 1.6, 1.4, 1.3, 1.28],
    "wiggles at the end": [2.0, 1.6, 1.45, 1.47, 1.44, 1.46],
    "wiggles all along": [1.5, 1.46, 1.49, 1.44, 1.48, 1.45, 1.47],
    "rises by less than a hundredth": [2.0, 1.6, 1.4, 1.41],
    "rises and falls back": [2.0, 1.5, 1.7, 1.5],
    "stays": [1.5] * 5,
    "is only of before and after": [1.5, 1.6],
    "is only of before": [1.5],
}


@pytest.mark.parametrize("evals", NOT_OVERFITTING.values(), ids=NOT_OVERFITTING)
def test_an_evaluation_that_only_wiggles_is_no_overfitting(evals):
    assert patterns(read(FALLING, evals)) == ("converging",)


@pytest.mark.parametrize(
    ("evals", "lowest"),
    [
        ([2.0, 1.6, 1.4, 1.3, 1.38], 750),  # at the last evaluation only
        ([2.0, 1.5, 1.55, 1.7, 1.9], 250),
        ([2.0, 1.5, 1.52, 1.51, 1.6, 1.75], 200),
        ([1.5, 1.6, 1.7, 1.9], 0),  # from the first step on
    ],
)
def test_training_that_falls_while_the_evaluation_rises_is_overfitting(evals, lowest):
    main, course = read(FALLING, evals)

    assert (main.pattern, course.pattern, course.advice) == ("overfitting", "converging", "")
    assert f"eval_loss rises from {min(evals):.4g} at step {lowest} to {evals[-1]:.4g} at step" in main.evidence
    assert re.search(r"while the loss in training falls from 1\.\d+ to 0\.8\d+\.$", main.evidence)
    assert "JOB_NUM_TRAIN_EPOCHS" in main.advice


def test_an_evaluation_that_rises_while_training_stands_still_is_no_overfitting():
    flat = [1.8 - 0.5 * min(i, 20) / 20 for i in range(100)]

    assert "overfitting" not in patterns(read(flat, [2.0, 1.5, 1.6, 1.7, 1.8]))


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_a_reward_should_rise(method):
    dice = random.Random(1)
    reward = [-0.2 + 0.01 * i + dice.gauss(0, 0.05) for i in range(100)]

    rising, falling = read(reward, method=method), read(reward[::-1], method=method)
    (still,) = read([dice.gauss(0, 0.1) for _ in range(100)], method=method)
    overfitted, _ = read(reward, [-0.2, 0.5, 0.4, 0.3], method=method)

    assert patterns(rising) == ("converging",)
    assert re.match(r"The reward rises from -0\.\d+ to 0\.7\d+, ", rising[0].evidence)
    assert patterns(falling) == ("diverging",)
    assert "The reward falls from 0.7" in falling[0].evidence
    assert still.pattern == "plateau"
    assert "eval_reward falls from 0.5" in overfitted.evidence


def test_a_reward_that_is_mostly_the_same_has_no_spikes_but_where_it_breaks_down():
    sparse = [1.0 if i % 17 == 0 else 0.0 for i in range(170)]
    full = [1.0] * 60 + [0.0] + [1.0] * 60

    assert "spike" not in patterns(read(sparse, method="grpo"))
    assert "The reward jumps from 1 to 0 at step 600" in read(full, method="grpo")[-1].evidence


def test_the_loss_of_reinforcement_learning_says_nothing():
    history = [LogEntry(step=i, values={"loss": 0.01 * i, "reward": 0.01 * i}) for i in range(1, 101)]

    assert patterns(read_curve("grpo", history, [])) == ("converging",)
    assert patterns(read_curve("sft", history, [])) == ("diverging",)


@pytest.mark.parametrize("values", [[], [2.0], [2.0 - 0.1 * i for i in range(FEWEST - 1)], [math.nan] * 50])
def test_of_too_few_figures_nothing_is_said(values):
    (only,) = read(values, [2.0, 1.0, 3.0])

    assert only.pattern == "too_short"
    assert "JOB_LOGGING_STEPS" in only.advice


def test_figures_that_are_none_are_left_out():
    values = CONVERGING["100 lines"](random.Random(1))

    assert patterns(read([*values[:50], math.nan, *values[50:], math.inf])) == ("converging",)


def test_the_figures_of_each_finding_are_those_of_the_log():
    def first(make: Make) -> CurveFinding:
        return read(make(random.Random(1)))[0]

    spike = read(SPIKE["one line"](random.Random(1)))[-1].evidence
    jump = r"The loss jumps from 1\.\d+ to [23]\.\d+ at step 600, \d\d times the noise"
    assert re.fullmatch(rf"{jump}, with grad_norm 0\.7, and comes back\.", spike)
    several = read(at(20, 2.0, SPIKE["one line"])(random.Random(1)))[-1].evidence
    assert several.endswith("; 2 such jumps in all.")
    slow = first(OSCILLATING["slow"]).evidence
    size, steps, times = re.search(r"by (\S+) about every (\d+) steps, (\d+) times", slow).groups()
    assert float(size) == pytest.approx(0.6, rel=0.25)
    assert int(steps) == pytest.approx(4000 / 6, rel=0.25)
    assert int(times) == pytest.approx(6, abs=1)
    reached = int(
        re.search(r"until step (\d+) and stays there until step 3990", first(PLATEAU["after a fall"]).evidence)[1]
    )
    assert 200 < reached < 600
    assert "falls from 2.3 to 1." in first(CONVERGING["without noise"]).evidence
    assert "from 1.4" in first(DIVERGING["after a fall"]).evidence


def test_a_curve_that_still_falls_asks_for_more_epochs_and_one_that_has_settled_does_not():
    (still,) = read(CONVERGING["in a straight line"](random.Random(1)))
    (settled,) = read(noisy(decay(2.3, 1.2, 5), 100, 0.1)(random.Random(1)))

    assert "still falls at the end" in still.evidence
    assert "JOB_NUM_TRAIN_EPOCHS" in still.advice
    assert (settled.pattern, settled.advice) == ("converging", "")


def test_advice_names_settings_that_there_are_and_the_learning_rate_as_it_was():
    advice = [finding.advice for make in CASES.values() for finding in read(make(random.Random(1)))]
    named = set(re.findall(r"JOB_[A-Z_]+", " ".join(advice)))

    assert named
    assert {name.removeprefix("JOB_").lower() for name in named} <= set(JobSpec.model_fields)
    assert all("(up to 0.0002)" in text for text in advice if "JOB_LEARNING_RATE" in text)


# Of the demo, and of random bases of a few thousand parameters on which tests train; the first 16 lines or so.
REAL = {
    "demo": (
        [0.372, 0.373, 0.374, 0.37, 0.363, 0.336, 0.294, 0.223, 0.162, 0.118, 0.093, 0.09, 0.088, 0.087, 0.086, 0.085],
        [0.372, 0.364, 0.193, 0.089, 0.087, 0.087],
    ),
    "random base": (
        [5.814, 5.773, 5.698, 5.466, 5.437, 5.413, 5.377, 5.321, 5.307, 5.279, 5.227, 5.197, 5.191, 5.18, 5.174, 5.163],
        [],
    ),
    "random base, 16 lines": (
        [5.776, 5.82, 5.616, 5.511, 5.446, 5.415, 5.437, 5.476, 5.427, 5.425, 5.425, 5.448, 5.439, 5.4, 5.425, 5.426],
        [5.789, 5.459, 5.45, 5.435, 5.427],
    ),
}


@pytest.mark.parametrize(("values", "evals"), REAL.values(), ids=REAL)
def test_runs_that_went_well_are_converging(values, evals):
    assert patterns(read(values, evals)) == ("converging",)


def test_a_fall_that_noise_might_be_is_neither_told_nor_denied():
    values = [6.948, 6.909, 6.887, 6.851, 6.86, 6.847, 6.827, 6.793, 6.825, 6.835, 6.804, 6.835, 6.833, 6.815, 6.825]

    assert patterns(read([*values, 6.825, 6.855, 6.826, 6.838, 6.807], every=1)) == ("too_short",)


def test_noise_in_which_slow_waves_may_be_seen_by_chance_does_not_oscillate():
    def values(seed: int) -> list[float]:
        dice = random.Random(seed)
        return [2 + dice.gauss(0, 0.3) for _ in range(700)]

    assert not [seed for seed in range(100) if find_swing(values(seed))]


def test_a_quiet_log_tells_only_what_may_need_another_setting():
    course = CurveFinding(pattern="converging", evidence="The loss falls from 2 to 1.")
    spike = CurveFinding(pattern="spike", evidence="The loss jumps.", advice="Look at the rows of that step.")
    all_of_it, quiet = io.StringIO(), io.StringIO()

    Console(all_of_it, lambda text: text).curve([course, spike])
    Console(quiet, lambda text: text, quiet=True).curve([course, spike])

    said = "  spike: The loss jumps. Look at the rows of that step.\n"
    assert all_of_it.getvalue() == f"  converging: The loss falls from 2 to 1.\n{said}"
    assert quiet.getvalue() == said


def test_findings_are_read_back_from_metrics_and_those_of_an_earlier_version_have_none(tmp_path):
    findings = list(read(FALLING))
    write_json(tmp_path / "now.json", {"curve": [finding.model_dump() for finding in findings], "other": 1})
    write_json(tmp_path / "earlier.json", {"other": 1})

    assert reported_curve(tmp_path / "now.json") == findings
    assert reported_curve(tmp_path / "earlier.json") == []


@pytest.mark.parametrize("content", ["{}", '{"curve": [{"pattern": "unheard-of", "evidence": ""}]}'])
def test_metrics_of_another_version_say_nothing_of_the_curve(tmp_path, content):
    path = tmp_path / "metrics.json"
    path.write_text(content)

    assert reported_curve(path) == []
