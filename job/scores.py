"""How good an answer is, from 0 to 1: what RLOO and GRPO reward, and what held-out answers are judged by.

Every score is a function of ``(answer, reference, options)`` and of nothing else. Answers and references are anybody's
text: none may stop a run or take it long.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NoReturn

import jsonschema
import regex
from referencing import Registry
from referencing.exceptions import Unresolvable

# One search takes milliseconds; a pattern that backtracks without end would hold up all GPUs.
SEARCH_S = 1.0
# Of a text, for rouge_l, whose time grows with the square of them: a fraction of a second for the longest.
WORDS = 1000


@dataclass(frozen=True)
class ScoreOptions:
    """What some scores need to be told; each ignores what is not about it."""

    pattern: str | None = None  # of `regex`
    schema: dict[str, Any] | None = None  # of `json_schema`
    marker: str | None = None  # behind which `numeric_answer` finds the number; None: it is the last one
    length: int = 500  # characters up to which `length` is content


Score = Callable[[str, str | None, ScoreOptions], float]


def exact_match(answer: str, reference: str | None, options: ScoreOptions) -> float:
    """1 if *answer* is *reference*, white space around them left out."""
    return float(reference is not None and answer.strip() == reference.strip())


def contains(answer: str, reference: str | None, options: ScoreOptions) -> float:
    """1 if *reference* stands somewhere in *answer*, capitals or not."""
    return float(reference is not None and reference.strip().casefold() in answer.casefold())


def numeric_answer(answer: str, reference: str | None, options: ScoreOptions) -> float:
    """1 if *answer* and *reference* end in the same number: the first behind the last marker, else the last."""
    given = number_in(answer, options.marker)
    return float(given is not None and reference is not None and given == number_in(reference, options.marker))


def regex_match(answer: str, reference: str | None, options: ScoreOptions) -> float:
    """1 if the pattern is found in *answer*; 0 also where the search takes longer than `SEARCH_S`."""
    if options.pattern is None:
        raise ValueError("regex has no pattern")
    try:
        return float(regex.search(options.pattern, answer, timeout=SEARCH_S) is not None)
    except TimeoutError:
        return 0.0


def json_valid(answer: str, reference: str | None, options: ScoreOptions) -> float:
    """1 if the whole *answer* is one JSON value by RFC 8259, which knows no NaN."""
    try:
        json.loads(answer, parse_constant=_no_constant, parse_int=str)  # as text: int() refuses 4,300 digits and more
    except (ValueError, RecursionError):
        return 0.0
    return 1.0


def json_schema(answer: str, reference: str | None, options: ScoreOptions) -> float:
    """1 if the whole *answer* is JSON that the schema allows."""
    if options.schema is None:
        raise ValueError("json_schema has no schema")
    if not json_valid(answer, reference, options):
        return 0.0
    try:
        # An empty registry, as the library would fetch what a schema refers to elsewhere.
        return float(_validator(options.schema)(options.schema, registry=Registry()).is_valid(json.loads(answer)))
    except (ValueError, RecursionError, TimeoutError, Unresolvable):
        return 0.0


def rouge_l(answer: str, reference: str | None, options: ScoreOptions) -> float:
    """F-measure of the longest common subsequence of words (Lin, "ROUGE: A Package for Automatic Evaluation of
    Summaries", 2004, section 3.1, with β = 1). Words are runs of letters and digits, capitals or not."""
    given, right = _words(answer), _words(reference or "")
    common = _common_subsequence(given, right)
    return 2 * common / (len(given) + len(right)) if common else 0.0


def classification(answer: str, reference: str | None, options: ScoreOptions) -> float:
    """1 if *answer* begins with the label that *reference* is; `f1_by_class` tells the classes apart."""
    return float(reference is not None and _begins_with(answer, reference))


def length(answer: str, reference: str | None, options: ScoreOptions) -> float:
    """1 up to ``options.length`` characters, from there falling to 0 at twice as many; 0 for an empty answer, which
    would else be the best of all."""
    characters = len(answer.strip())
    if not characters:
        return 0.0
    return min(1.0, max(0.0, 2.0 - characters / options.length))


SCORES: dict[str, Score] = {
    "exact_match": exact_match,
    "contains": contains,
    "numeric_answer": numeric_answer,
    "regex": regex_match,
    "json_valid": json_valid,
    "json_schema": json_schema,
    "rouge_l": rouge_l,
    "classification": classification,
    "length": length,
}
# Those that compare.
NEEDS_REFERENCE = frozenset({"exact_match", "contains", "numeric_answer", "rouge_l", "classification"})


def f1_by_class(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """F1 of each label among *references*, by its name. An answer is of the label that it begins with, the longest of
    several; one that begins with none is of no class, and lowers the recall of its own."""
    right = [" ".join(_words(reference)) for reference in references]
    labels = sorted(set(right), key=len, reverse=True)
    given = [next((label for label in labels if _begins_with(answer, label)), None) for answer in answers]
    hits = Counter(one for one, other in zip(given, right, strict=True) if one == other)
    of_both = Counter(given) + Counter(right)
    return {label: 2 * hits[label] / of_both[label] for label in sorted(labels)}


def unusable(name: str, reference: str | None, options: ScoreOptions) -> str | None:
    """Why the score *name* can never be 1 with *reference*; None: it can."""
    if name not in NEEDS_REFERENCE:
        return None
    if reference is None or not reference.strip():
        return "there is no reference answer"
    if name == "numeric_answer" and number_in(reference, options.marker) is None:
        where = f" behind {options.marker!r}" if options.marker else ""
        return f"the reference answer has no number{where}"
    return None


def pattern_fault(pattern: str) -> str | None:
    """What is wrong with a regular expression; None: nothing."""
    try:
        regex.compile(pattern)
    except regex.error as error:
        return str(error)
    return None


def schema_fault(schema: dict[str, Any]) -> str | None:
    """What is wrong with a JSON schema; None: nothing."""
    try:
        jsonschema.validators.validator_for(schema).check_schema(schema)
    except jsonschema.SchemaError as error:
        return str(error.message)
    outside = next((ref for ref in _references(schema) if not ref.startswith("#")), None)
    return f"it refers to {outside}, which is not fetched" if outside else None


def _references(schema: Any) -> Iterator[str]:
    """What *schema* refers to, at any depth."""
    if isinstance(schema, dict):
        yield from (ref for key, ref in schema.items() if key == "$ref" and isinstance(ref, str))
    if isinstance(schema, dict | list):
        for part in schema.values() if isinstance(schema, dict) else schema:
            yield from _references(part)


def _validator(schema: dict[str, Any]) -> Any:
    """The validator of the schema's draft, whose patterns are searched for no longer than `SEARCH_S`."""
    kind = jsonschema.validators.validator_for(schema)
    return jsonschema.validators.extend(kind, {"pattern": _pattern_within_time})


def _pattern_within_time(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    if validator.is_type(instance, "string") and not regex.search(pattern, instance, timeout=SEARCH_S):
        yield jsonschema.ValidationError(f"{pattern!r} is not found")


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())[:WORDS]


def _common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest, by the rows of the table of all prefixes."""
    above = [0] * (len(other) + 1)
    for word in one:
        row = [0]
        for column, against in enumerate(other):
            row.append(above[column] + 1 if word == against else max(row[-1], above[column + 1]))
        above = row
    return above[-1]


def _begins_with(answer: str, label: str) -> bool:
    wanted = _words(label)
    return bool(wanted) and _words(answer)[: len(wanted)] == wanted


# A sign or a currency may stand before it, in either order; not the minus of "3-5", nor the 2 of "x2". Thousands are
# set off by commas, and the point of "5." ends the sentence.
_NUMBER = re.compile(
    r"(?<![\w.])(?P<sign>[-+]?)(?:[$€£]\s?)?(?P<inner>[-+]?)"
    r"(?P<digits>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?P<power>[eE][-+]?[0-9]{1,3})?"
)


def number_in(text: str, marker: str | None = None) -> Decimal | None:
    """The number that *text* ends in: the first behind the last *marker*, or without one the last of all.

    Reads ``1,234``, ``$5``, ``-3``, ``-$3``, ``.5``, ``50%`` and ``5.``. The parts of a fraction such as ``1/2`` are no
    answers of their own and are passed over.
    """
    text = text.replace("\N{MINUS SIGN}", "-")
    if marker:
        _, found, text = text.rpartition(marker)
        if not found:
            return None
    numbers = (match for match in _NUMBER.finditer(text) if not _in_fraction(text, match))
    if marker:
        match = next(numbers, None)
    else:
        match = None
        for match in numbers:  # noqa: B007 (the last one stays)
            pass
    return _value(match) if match else None


def _in_fraction(text: str, match: re.Match[str]) -> bool:
    before, after = text[max(0, match.start() - 2) : match.start()], text[match.end() : match.end() + 4]
    return bool(re.search(r"/\s?$", before) or re.match(r"\s?/\s?[0-9]", after))


def _value(match: re.Match[str]) -> Decimal:
    sign = match["sign"] or match["inner"]
    return Decimal(f"{sign}{match['digits'].replace(',', '')}{match['power'] or ''}")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
