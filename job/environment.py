"""From ``JOB_*`` variables to a `JobSpec`: the grammar of values, and every problem reported at once.

Empty means unset. Lists are split by commas (a comma inside a URI is ``%2C``), maps are ``a=b,c=d``, booleans are
true, false, 1 or 0, and what is called ``…_ARGS`` or ``…_KWARGS`` is JSON. A reward without a weight
(``JOB_REWARDS=regex``) has 1.
"""

import difflib
import itertools
import json
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from job.errors import BadSpec
from job.spec import JobSpec

PREFIX = "JOB_"
SPEC_URI = "JOB_SPEC_URI"
# Kubernetes (indexed Jobs, service links) and batch platforms set these on their own.
PLATFORM_NAME = re.compile(r"JOB_(COMPLETION_INDEX|ID|NAME|.*_PORT(_.*)?|.*_SERVICE_HOST)")
_JSON_FIELDS = {"trainer_args", "peft_args", "lr_scheduler_kwargs", "eval_schema"}
# pydantic's types of error whose own words are of its inner life.
_NUMBERS = {
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "int_parsing_size": "a smaller integer",
    "float_parsing": "a number",
}


def variable(field: str) -> str:
    """The environment variable of a `JobSpec` field."""
    return PREFIX + field.upper()


def platform_names(env: Mapping[str, str]) -> list[str]:
    """``JOB_*`` names in *env* that platforms inject; they are ignored."""
    return sorted(name for name in env if PLATFORM_NAME.fullmatch(name) and _field(name) not in JobSpec.model_fields)


def load_spec(
    env: Mapping[str, str],
    base: Mapping[str, Any] | None = None,
    *,
    needs: Sequence[str] = ("dataset_uri", "output_uri"),
) -> JobSpec:
    """The spec that *env* asks for, on top of *base* (the content of ``JOB_SPEC_URI``). A verb *needs* some settings
    that others can do without.

    Raises:
        BadSpec: one or more settings are wrong; the message lists them all, each with what to try.
    """
    settings: dict[str, Any] = dict(base or {})
    unparsed: set[str | int] = set()
    problems = [_unknown(name, SPEC_URI) for name in settings if name not in JobSpec.model_fields]
    for name, text in sorted(env.items()):
        if not name.startswith(PREFIX) or name == SPEC_URI or not text.strip() or name in platform_names(env):
            continue
        field = _field(name)
        if field not in JobSpec.model_fields:
            problems.append(_unknown(name))
            continue
        try:
            settings[field] = _parse(field, text.strip())
        except ValueError as error:
            problems.append(f"{name}={told(text)}: {error}.")
            unparsed.add(field)
    problems += [_missing(field) for field in needs if not settings.get(field)]
    known = {name: value for name, value in settings.items() if name in JobSpec.model_fields}
    try:
        spec = JobSpec.model_validate(known)
    except ValidationError as error:
        details = [detail for detail in error.errors() if not unparsed.intersection(detail["loc"][:1])]
        for _, group in itertools.groupby(details, lambda one: one["loc"][:1]):
            problems += _explain(list(group), env)
    if problems:
        raise BadSpec(_summary(problems))
    return spec


def _field(name: str) -> str:
    return name.removeprefix(PREFIX).lower()


def _parse(field: str, text: str) -> Any:
    """The value of *field* written as *text*, in the grammar of the module's docstring; pydantic does the rest."""
    if text[0] in "\"'" and text[-1] == text[0] and len(text) > 1:
        raise ValueError("the quotes are part of the value (docker's --env-file keeps them); remove them")
    if field in _JSON_FIELDS:
        return _parse_json(text)
    kinds = _kinds(JobSpec.model_fields[field].annotation)
    if bool in kinds and text.lower() in ("true", "1", "false", "0"):
        return text.lower() in ("true", "1")
    if bool in kinds and text != "auto":
        raise ValueError("expected true, false, 1 or 0" + (" or auto" if len(kinds) > 1 else ""))
    if dict in kinds:
        return dict(_pair(item, lone="1" if field == "rewards" else None) for item in text.split(","))
    if tuple in kinds:
        return tuple(item.strip().replace("%2C", ",") for item in text.split(",") if item.strip())
    return text


def _parse_json(text: str) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg} at character {error.pos})") from error
    if not isinstance(value, dict):
        raise ValueError('expected a JSON object such as {"adam_beta2": 0.95}')
    return value


def _pair(item: str, lone: str | None = None) -> tuple[str, str]:
    """A name and its value, *lone* for a name without one."""
    key, equals, value = item.partition("=")
    if lone and key.strip() and not equals:
        return key.strip(), lone
    if not equals or not key.strip() or not value.strip():
        raise ValueError(f"{item!r} is not of the form name=column (prompt=question,completion=answer)")
    return key.strip(), value.strip()


def _kinds(annotation: Any) -> set[Any]:
    """The plain types inside an annotation: ``bool | Literal["auto"]`` → {bool, str}."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return set().union(*(_kinds(part) for part in typing.get_args(annotation)))
    if origin is typing.Annotated:
        return _kinds(typing.get_args(annotation)[0])
    if origin is typing.Literal:
        return {str}
    return {origin or annotation}


def _unknown(name: str, source: str = "") -> str:
    names = [field if source else variable(field) for field in JobSpec.model_fields]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {close[0]}?" if close else "See docs/environment.md for the names."
    return f"{f'{source}: ' if source else ''}{name} is not a setting. {hint}"


def _explain(details: list[Any], env: Mapping[str, str]) -> list[str]:
    """The errors that pydantic has with one setting, one for each kind of value that it may have, as a sentence; or
    what contradicts itself among all of them, a line each."""
    if not details[0]["loc"]:
        return [f"{line}." for line in str(details[0]["msg"]).removeprefix("Value error, ").splitlines()]
    field = str(details[0]["loc"][0])
    name = variable(field)
    if details[0]["type"] == "missing":
        return [_missing(field)]
    value = env.get(name) or details[0]["input"]
    first, *others = map(_expected, details)
    return [f"{name}={told(value)}: {' or '.join([first, *(other.removeprefix('expected ') for other in others)])}."]


def told(value: Any) -> str:
    """*value* for a message, without the query of a web address, which may be signed."""
    return re.sub(r"(https?://[^\s?,]*\?)[^\s,]+", r"\1…", str(value))


def _expected(detail: Any) -> str:
    if detail["type"] in _NUMBERS:
        return f"expected {_NUMBERS[detail['type']]}"
    message = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    return message if detail["type"] == "value_error" else f"expected {message}"


def _missing(field: str) -> str:
    return f"{variable(field)} is not set. {JobSpec.model_fields[field].description}"


def _summary(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} settings are wrong:\n" + "\n".join(f"  - {problem}" for problem in problems)
