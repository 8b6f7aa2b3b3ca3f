"""``report.html``: one page that tells a person what was trained on what, whether it worked, and what it took.

It needs nothing but itself: no script, no font, no request. Everything that comes from outside is escaped by the
template and made visible by `visible`; the charts are drawn here.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from job.adapters import KINDS
from job.environment import variable
from job.pace import duration
from job.records import SampleAnswer
from job.report.axis import number
from job.report.charts import histogram
from job.report.curves import ends, figures
from job.report.made import Made
from job.report.metrics import EvalMetrics, Metrics
from job.report.outside import cut, cut_row, visible

# The first ones, so that nobody picks those that look well.
ROWS, ANSWERS, SAMPLES = 5, 12, 24


_SMALL = 0.1  # a change below it is shown with a digit more


@dataclass(frozen=True)
class Tile:
    """A figure of the page's head."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Sentence:
    """What the run has come to, in words."""

    text: str
    tone: str = "plain"  # or good, bad


def page(made: Made, metrics: Metrics) -> str:
    """HTML of all that is known of a run. The same run makes the same page, byte for byte."""
    return _ENVIRONMENT.get_template("page.html.jinja").render(
        made=made,
        metrics=metrics,
        adapter=KINDS[metrics.adapter].label,
        title=f"{_short(metrics.base_model.uri)} on {', '.join(map(_short, made.spec.dataset_uri))}",
        sentences=_sentences(made, metrics),
        tiles=_tiles(made, metrics),
        figures=figures(made.result),
        lengths=_lengths(made),
        rows=[cut_row(row) for row in made.rows[:ROWS]],
        answers=made.answers[:ANSWERS],
        samples=_by_prompt(made.samples[:SAMPLES]),
        samples_left_out=len(made.samples[SAMPLES:]),
        changed=_settings(made.spec.model_dump(mode="json", exclude_defaults=True)),
        settings=_settings(metrics.settings),
    )


def _short(uri: str) -> str:
    """The name by which a person speaks of *uri*."""
    return uri.partition("?")[0].rstrip("/").rpartition("/")[2].partition("@")[0] or uri


def _sentences(made: Made, metrics: Metrics) -> list[Sentence]:
    said = []
    if metrics.objection:
        said.append(Sentence(f"Rejected: {metrics.objection}", "bad"))
    elif metrics.status != "finished":
        result = made.result
        said.append(Sentence(f"Ended early, after step {result.steps:,} of {result.total_steps:,}.", "bad"))
    train = metrics.train
    if train.stopped_early:
        said.append(Sentence(f"Stopped after step {train.steps:,}, as evaluations got no better."))
    if train.published_step != train.steps:
        best = f"This is the adapter of step {train.published_step:,} of {train.steps:,}, which evaluated best."
        said.append(Sentence(best))
    said.append(_loss(metrics.eval, metrics.data.eval_rows) if metrics.eval else _unjudged(made))
    for score in made.scores:
        said.append(_compared(score.scorer, score.base, score.tuned, "{:.1%}".format, " on held-out rows.", up=True))
    return said


def _loss(evaluated: EvalMetrics, rows: int) -> Sentence:
    before, after = evaluated.loss_before, evaluated.loss
    if after is None:
        return Sentence(f"Evaluation loss was {number(before)} before training and was not measured at its end.")
    if not math.isfinite(before + after) or not before:
        return Sentence(f"Evaluation loss: {number(before)} before training, {number(after)} after it.", "bad")
    change = (after - before) / before
    where = f" ({change:+.{0 if abs(change) >= _SMALL else 1}%}) on {rows:,} rows that were not trained on."
    return _compared("Evaluation loss", before, after, number, where, up=False)


def _unjudged(made: Made) -> Sentence:
    seen = ends(made.result.history, "loss")
    losses = f"Training loss went from {number(seen[0])} to {number(seen[1])}. " if seen else ""
    if made.prepared.eval or made.scores:
        return Sentence(f"{losses}Evaluation loss was not measured.")
    return Sentence(f"{losses}No rows were held out, so this does not say how the model does on new ones.")


def _compared(
    what: str, before: float, after: float, shown: Callable[[float], str], where: str, *, up: bool
) -> Sentence:
    """How a figure has changed, as far as its digits on the page tell; *up* is better, or down."""
    old, new = shown(before), shown(after)
    if old == new:
        return Sentence(f"{what} stayed at {old}{where}")
    rose = after > before
    return Sentence(f"{what} {'rose' if rose else 'fell'} from {old} to {new}{where}", "good" if rose == up else "bad")


def _tiles(made: Made, metrics: Metrics) -> list[Tile]:
    tiles = [_loss_tile(made, metrics)]
    tiles += [Tile(score.scorer, f"{score.base:.1%} → {score.tuned:.1%}", "base → tuned") for score in made.scores[:2]]
    attempts = metrics.attempts
    in_all = f"in {attempts.count} attempts, " if attempts.count > 1 else ""
    tiles.append(Tile("Time", duration(attempts.elapsed_s), f"{in_all}{duration(metrics.train.runtime_s)} of training"))
    if attempts.cost is not None:
        tiles.append(Tile("Cost", f"{attempts.cost:,.2f}", f"{attempts.gpu_hours:,.2f} GPU hours"))
    elif attempts.gpu_hours and made.plan.use_gpu:
        tiles.append(Tile("GPU hours", f"{attempts.gpu_hours:,.2f}"))
    return tiles + _machine_tiles(made, metrics)


def _loss_tile(made: Made, metrics: Metrics) -> Tile:
    evaluated = metrics.eval
    if evaluated is None:
        seen = ends(made.result.history, "loss")
        return Tile("Training loss", f"{number(seen[0])} → {number(seen[1])}" if seen else "not logged")
    after = "not measured" if evaluated.loss is None else number(evaluated.loss)
    note = "" if evaluated.perplexity is None else f"perplexity {number(evaluated.perplexity)}"
    return Tile("Evaluation loss", f"{number(evaluated.loss_before)} → {after}", note)


def _machine_tiles(made: Made, metrics: Metrics) -> list[Tile]:
    tiles, forecast, memory = [], made.plan.forecast, made.plan.memory
    if speed := metrics.train.tokens_per_s:
        foreseen = f"{forecast.tokens_per_s:,.0f} were foreseen" if forecast else ""
        tiles.append(Tile("Tokens per second", f"{speed:,.0f}", foreseen))
    if peak := metrics.train.peak_gpu_memory_gib:
        planned = f"{memory.total_gib:.1f} of {memory.limit_gib:.1f} were planned" if memory else ""
        tiles.append(Tile("Peak GPU memory", f"{peak:.1f} GiB", planned))
    return tiles


def _lengths(made: Made) -> Markup | None:
    lengths = made.prepared.train.lengths
    return histogram(lengths, made.plan.max_length) if lengths else None


def _by_prompt(samples: Sequence[SampleAnswer]) -> dict[str, list[SampleAnswer]]:
    grouped: dict[str, list[SampleAnswer]] = {}
    for sample in samples:
        grouped.setdefault(sample.prompt, []).append(sample)
    return grouped


def _settings(values: dict[str, Any]) -> dict[str, str]:
    return {variable(name): _setting(value) for name, value in values.items()}


def _setting(value: Any) -> str:
    """As it would be written in the environment."""
    if value in (None, [], {}):
        return "unset"
    match value:
        case bool():
            return str(value).lower()
        case list():
            return ",".join(map(str, value))
        case dict():
            return ",".join(f"{key}={_setting(each)}" for key, each in value.items())
        case _:
            return str(value)


def _shown(value: Any) -> Any:
    """What the template prints: text is made visible before it is escaped, markup of our own is not touched."""
    return value if isinstance(value, Markup) else visible(str(value))


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_shown,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters.update(cut=cut, duration=duration, number=number)
