"""What answers to held-out rows are judged by: the settings as scorers, the scores, what contradicts itself."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean
from typing import NamedTuple

from job.errors import BadData
from job.records import Answer, HeldOut, Score
from job.scores import SCORES, ScoreOptions, f1_by_class, unusable
from job.settings import Settings
from job.settings.evaluation import EvaluationSettings

# The settings that decide whether a trained adapter is good enough: others may judge one that was rejected.
JUDGING = ("eval_generate", "eval_scorers", "eval_pattern", "eval_schema", "eval_max_new_tokens", "min_score")
# The setting that only one scorer needs, with an example.
_OF_SCORER = {"regex": ("eval_pattern", "^[0-9]+$"), "json_schema": ("eval_schema", '{"type": "object"}')}


def scorers(spec: EvaluationSettings, references: Iterable[str | None]) -> list[str]:
    """Those that are asked for, or that suit *references*; the ones of JOB_MIN_SCORE are always among them."""
    named = list(spec.eval_scorers) or _suited(references)
    return list(dict.fromkeys([*named, *spec.min_score]))


def _suited(references: Iterable[str | None]) -> list[str]:
    if any("####" in (reference or "") for reference in references):
        return ["numeric_answer"]
    return ["exact_match", "rouge_l"]


def answer_options(spec: EvaluationSettings) -> ScoreOptions:
    """What the scorers are told."""
    return ScoreOptions(pattern=spec.eval_pattern, schema=spec.eval_schema)


def refuse_unusable(spec: EvaluationSettings, held_out: HeldOut) -> None:
    """See that each scorer has answers to compare with.

    Raises:
        BadData: one that was asked for has none.
    """
    options = answer_options(spec)
    for name in dict.fromkeys([*spec.eval_scorers, *spec.min_score]):
        reasons = [unusable(name, row.reference, options) for row in held_out.rows]
        if all(reasons):
            raise BadData(
                f"The scorer {name} can judge none of the {len(reasons)} held-out rows, as {reasons[0]}.",
                "Give rows with an answer (JOB_COLUMNS=prompt=question,completion=answer), or set JOB_EVAL_SCORERS.",
            )


class Compared(NamedTuple):
    """What the base model and the tuned one make of the held-out rows."""

    scores: tuple[Score, ...]
    answers: tuple[Answer, ...]


def scored(spec: EvaluationSettings, answers: Sequence[Answer]) -> Compared:
    """*answers* with their scores, and the means of these. A row whose own answer a scorer cannot compare with is none
    of that scorer's."""
    options = answer_options(spec)
    by_row: list[dict[str, tuple[float, float]]] = [{} for _ in answers]
    means = []
    for name in scorers(spec, [answer.reference for answer in answers]):
        score = SCORES[name]
        of = [index for index, answer in enumerate(answers) if not unusable(name, answer.reference, options)]
        for index in of:
            row = answers[index]
            base, tuned = (score(text, row.reference, options) for text in (row.base, row.tuned))
            by_row[index][name] = base, tuned
        if of:
            means.append(_mean(name, [by_row[index][name] for index in of], [answers[index] for index in of]))
    full = (answer.model_copy(update={"scores": row}) for answer, row in zip(answers, by_row, strict=True))
    return Compared(tuple(means), tuple(full))


def _mean(name: str, pairs: Sequence[tuple[float, float]], answers: Sequence[Answer]) -> Score:
    f1 = None
    if name == "classification":
        f1 = f1_by_class([answer.tuned for answer in answers], [answer.reference or "" for answer in answers])
    base, tuned = (fmean(side) for side in zip(*pairs, strict=True))
    return Score(scorer=name, rows=len(pairs), base=base, tuned=tuned, f1=f1)


def shortfall(spec: EvaluationSettings, scores: Sequence[Score]) -> str | None:
    """Which scores are below JOB_MIN_SCORE, with the figures; None: none."""
    reached = {score.scorer: score for score in scores}
    below = [
        f"{name} is {reached[name].tuned:.4g} over {reached[name].rows} held-out answers (the base model's: "
        f"{reached[name].base:.4g}), below JOB_MIN_SCORE={name}={least:g}"
        for name, least in spec.min_score.items()
        if reached[name].tuned < least
    ]
    return f"{'; '.join(below)}." if below else None


def of_answers(spec: Settings) -> Iterator[str]:
    """What contradicts itself in how answers are judged, a sentence each without its full stop."""
    if spec.method == "reward":
        for name in ("eval_generate", "eval_samples"):
            if getattr(spec, name):
                yield f"JOB_{name.upper()} is nothing for JOB_METHOD=reward, whose model gives no answers; unset it"
    if spec.format == "text" and spec.eval_generate + spec.eval_samples and not spec.response_template:
        yield "JOB_EVAL_GENERATE needs prompts, which JOB_FORMAT=text has none of; set JOB_RESPONSE_TEMPLATE too"
    if spec.min_score and not spec.eval_generate:
        yield "JOB_MIN_SCORE is set without answers to score; set JOB_EVAL_GENERATE=100 too"
    if spec.eval_scorers and not spec.eval_generate:
        yield "JOB_EVAL_SCORERS is set without answers to score; set JOB_EVAL_GENERATE=100 too"
    yield from _of_names(spec)


def _of_names(spec: Settings) -> Iterator[str]:
    for setting, names in (("JOB_EVAL_SCORERS", spec.eval_scorers), ("JOB_MIN_SCORE", spec.min_score)):
        for name in names:
            if name not in SCORES:
                close = difflib.get_close_matches(name, SCORES, n=1)
                hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(SCORES)}"
                yield f"{setting}: {name!r} is no scorer; {hint}"
    asked = {*spec.eval_scorers, *spec.min_score}
    for name, (setting, example) in _OF_SCORER.items():
        is_set = getattr(spec, setting) is not None
        if name in asked and not is_set:
            yield f"The scorer {name} needs JOB_{setting.upper()}, such as JOB_{setting.upper()}={example}"
        if is_set and name not in asked:
            yield f"JOB_{setting.upper()} is for the scorer {name}, which JOB_EVAL_SCORERS does not have; add it"
    for name in spec.min_score:
        if spec.eval_scorers and name in SCORES and name not in spec.eval_scorers:
            yield f"JOB_MIN_SCORE={name} asks for a score that JOB_EVAL_SCORERS does not have; add {name} to it"
