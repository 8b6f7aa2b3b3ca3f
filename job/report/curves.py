"""The curves of a training: which figures of its log are drawn, and how they are introduced."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from job.records import LogEntry, TrainResult
from job.report.axis import number
from job.report.charts import Series, drawable, line_chart


@dataclass(frozen=True)
class Figure:
    """One chart, with what stands above and below it."""

    title: str
    drawing: Markup
    legend: tuple[tuple[str, str], ...]  # name of the figure in the log, and how it began and ended
    note: str


@dataclass(frozen=True)
class _Kind:
    title: str
    name: str  # in the log of TRL's trainers; of an evaluation eval_ and this
    noisy: bool = True  # is also drawn as its median


# Trainers log more; these are what a person looks at first.
_KINDS = (
    _Kind("Loss", "loss"),
    _Kind("Reward", "reward"),
    _Kind("Reward margin", "rewards/margins"),
    _Kind("Reward margin", "margin"),
    _Kind("Chosen above rejected", "rewards/accuracies"),
    _Kind("Chosen above rejected", "accuracy"),
    _Kind("Token accuracy", "mean_token_accuracy"),
    _Kind("Learning rate", "learning_rate", noisy=False),
    _Kind("Gradient norm", "grad_norm"),
    _Kind("KL divergence from the reference", "kl"),
    _Kind("Entropy", "entropy"),
    _Kind("Length of completions", "completions/mean_length"),
)
# Fewer points show as they are how they run.
_MANY = 40


def figures(result: TrainResult) -> list[Figure]:
    """A chart for each figure that was logged."""
    return [figure for kind in _KINDS if (figure := _figure(kind, result))]


def _figure(kind: _Kind, result: TrainResult) -> Figure | None:
    histories = ((kind.name, result.history), (f"eval_{kind.name}", result.eval_history))
    logged = {name: [(e.step, e.values[name]) for e in history if name in e.values] for name, history in histories}
    series = [
        Series(name, points, marked=name != kind.name, smooth=kind.noisy and len(points) >= _MANY)
        for name, every in logged.items()
        if (points := drawable(every))
    ]
    if not series:
        return None
    last_step = max(result.steps, *(line.points[-1][0] for line in series))
    drawing = line_chart(kind.title, series, last_step, result.resumed_at_step)
    return Figure(kind.title, drawing, tuple(map(_entry, series)), _note(series, logged.values()))


def _entry(line: Series) -> tuple[str, str]:
    first, last = line.points[0][1], line.points[-1][1]
    return line.name, number(first) if len(line.points) == 1 else f"{number(first)} → {number(last)}"


def _note(series: Sequence[Series], logged: Iterable[Sequence[tuple[int, float]]]) -> str:
    lost = sum(map(len, logged)) - sum(len(line.points) for line in series)
    return f"{lost:,} value{'s' * (lost > 1)} that cannot be drawn, as NaN cannot, left out." if lost else ""


def ends(history: Iterable[LogEntry], name: str) -> tuple[float, float] | None:
    """The first and the last finite value of *name*; None without one."""
    points = drawable([(entry.step, entry.values[name]) for entry in history if name in entry.values])
    return (points[0][1], points[-1][1]) if points else None
