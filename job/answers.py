"""What answers to held-out rows are judged by: the settings as scorers, and what contradicts itself in them."""

import difflib
from collections.abc import Iterable, Iterator

from job.scores import SCORES, ScoreOptions
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
