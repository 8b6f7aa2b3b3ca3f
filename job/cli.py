"""The verbs a person can type. Without one the job runs."""

import contextlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TextIO

from job import __version__
from job.child import as_job_error
from job.console import Console
from job.endpoints import refuse_endpoints
from job.environment import SPEC_URI, load_spec, platform_names, told
from job.errors import BadSpec
from job.outcome import failure, success, to_line, write_termination_log
from job.processes import StopRequest, Task
from job.records import Gpu, Outcome
from job.redact import Redactor, redactor
from job.spec import JobSpec

PREVIEW_ROWS = 3
USAGE = """usage: python entrypoint.py [run | check [--gpus 8xH100-80GB] | plan [--gpus 8xH100-80GB] [--json] |
                                preview [ROWS] | status URI [--json] | schema | --version | --help]

run      (the default) fine-tune as the JOB_* variables say; docs/environment.md lists them
check    find out without a GPU whether the run would succeed, with the exit code it would give
plan     show how the job would run, what of the GPUs it would fill, how long it would take, and the alternatives;
         JOB_DATASET_URI and JOB_OUTPUT_URI may be missing
preview  show a few rows as the model sees them, with what carries loss marked
status   show how far the run at that output is, or how it ended; needs no JOB_* variable and only reads
schema   print the JSON schema of the spec (JOB_SPEC_URI)
"""


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    """Run the verb in *argv* with the settings in *env*. Returns the exit code."""
    match list(argv):
        case [] | ["run"]:
            tell = _once(_tell_all)  # the supervisor does before it tells the store, whatever comes first does
            return conclude(env, partial(_run, tell=tell), "load", tell)
        case ["check"]:
            return conclude(env, _check, "check")
        case ["check", "--gpus", gpus]:
            return conclude(env, partial(_check, gpus=gpus), "check")
        case ["plan", *options] if (chosen := _plan_options(options)) is not None:
            return conclude(env, partial(_plan, **chosen), "plan")
        case ["preview"]:
            return conclude(env, _preview, "preview")
        case ["preview", rows] if rows.isdigit() and int(rows):
            return conclude(env, partial(_preview, rows=int(rows)), "preview")
        case ["status", uri] | ["status", uri, "--json"] | ["status", "--json", uri]:
            return conclude(env, partial(_status, uri=uri, as_json="--json" in argv), "status", _tell)
        case _:
            return _tell_about_itself(argv)


def _tell_about_itself(argv: Sequence[str]) -> int:
    """What needs no settings and has no outcome."""
    match list(argv):
        case ["schema"]:
            print(json.dumps(JobSpec.model_json_schema(), indent=1))
        case ["--version"]:
            print(f"graft {__version__}")
        case ["--help" | "-h"]:
            print(USAGE, end="")
        case _:
            print(USAGE, end="", file=sys.stderr)
            return BadSpec.exit_code
    return 0


Verb = Callable[[Mapping[str, str], Redactor, StopRequest], Outcome]


Tell = Callable[[Outcome], None]


def conclude(env: Mapping[str, str], verb: Verb, phase: str, tell: Tell | None = None) -> int:
    """Carry out *verb*; what it raises itself has ended *phase*.

    The last line of stdout is the outcome as JSON. Unless *tell* does otherwise, as for a verb that may run beside a
    job in the same container, it is also that container's last word, under ``/dev/termination-log``.
    """
    redact = redactor(env)
    with StopRequest() as stop:
        try:
            outcome = verb(env, redact, stop)
        except Exception as error:  # every end has an outcome
            outcome = failure(as_job_error(error), phase, None, redact)
        (tell or _tell_all)(outcome)
    return outcome.code


def _once(tell: Tell) -> Tell:
    told: list[Outcome] = []

    def first(outcome: Outcome) -> None:
        if not told:
            told.append(outcome)
            tell(outcome)

    return first


def _run(env: Mapping[str, str], redact: Redactor, stop: StopRequest, tell: Tell) -> Outcome:
    refuse_endpoints(env)
    spec = load_spec(env, _base_spec(env, stop))
    console = Console(sys.stderr, redact, quiet=spec.log_level == "warning")
    if ignored := platform_names(env):
        console.say(f"ignored, set by the platform: {', '.join(ignored)}")
    from job.supervisor import Supervisor  # the SDKs behind it are not needed to refuse a bad spec

    return Supervisor(spec, env, console, redact, stop).run(tell)


def _check(env: Mapping[str, str], redact: Redactor, stop: StopRequest, gpus: str | None = None) -> Outcome:
    from job.check import run_check

    spec = load_spec(env, _base_spec(env, stop))
    return success(run_check(spec, env, Console(sys.stderr, redact), stop, _gpus(gpus)), None)


def _plan(
    env: Mapping[str, str], redact: Redactor, stop: StopRequest, gpus: str | None = None, as_json: bool = False
) -> Outcome:
    from job.show_plan import run_plan

    spec = load_spec(env, _base_spec(env, stop), needs=())
    console = Console(sys.stderr, redact, quiet=True)
    return success(run_plan(spec, env, console, stop, _gpus(gpus), sys.stdout, as_json=as_json), None)


def _plan_options(options: list[str]) -> dict[str, Any] | None:
    """``--gpus NAME`` and ``--json`` in any order; None for anything else."""
    match options:
        case []:
            return {}
        case ["--json", *rest] if (more := _plan_options(rest)) is not None:
            return more | {"as_json": True}
        case ["--gpus", gpus, *rest] if (more := _plan_options(rest)) is not None:
            return more | {"gpus": gpus}
        case _:
            return None


def _gpus(text: str | None) -> tuple[Gpu, ...] | None:
    """The GPUs named by ``--gpus``.

    Raises:
        BadSpec: no such thing.
    """
    from job.facts.gpus import parse_gpus

    try:
        return parse_gpus(text) if text else None
    except ValueError as error:
        raise BadSpec(f"--gpus: {error}.") from error


def _preview(env: Mapping[str, str], redact: Redactor, stop: StopRequest, rows: int = PREVIEW_ROWS) -> Outcome:
    from job.preview import run_preview

    spec = load_spec(env, _base_spec(env, stop), needs=("dataset_uri",))
    return success(run_preview(spec, env, stop, rows, sys.stdout), None)


def _status(env: Mapping[str, str], redact: Redactor, stop: StopRequest, uri: str, as_json: bool) -> Outcome:
    from job.status import show_status

    refuse_endpoints(env)
    return success(show_status(uri, Console(sys.stderr, redact), stop, sys.stdout, as_json=as_json), None)


def _base_spec(env: Mapping[str, str], stop: StopRequest) -> dict[str, Any] | None:
    """The content of JOB_SPEC_URI.

    Raises:
        BadSpec: it is not YAML or JSON with settings.
        NotFound, AccessDenied, NetworkExhausted: it cannot be read.
    """
    text = env.get(SPEC_URI, "").strip()
    if not text:
        return None
    import yaml

    from job.inputs import read_spec_file

    try:
        settings = yaml.safe_load(Task(lambda: read_spec_file(text)).result(stop))
    except (ValueError, yaml.YAMLError) as error:
        cause = f"{SPEC_URI}={told(text)}: {error}."
        raise BadSpec(cause, "Give a YAML or JSON file with one setting per key.") from error
    if not isinstance(settings, dict):
        raise BadSpec(f"{SPEC_URI}={text} holds {type(settings).__name__}, not settings.", "Write `name: value` lines.")
    return settings


def _tell(outcome: Outcome) -> None:
    words = f"{outcome.cause} {outcome.fix}".strip()
    ended = "" if outcome.code == 0 else f"{outcome.error_class} ({outcome.code}) in {outcome.phase}: "
    _print(f"{ended}{words}", sys.stderr)
    _print(to_line(outcome), sys.stdout)


def _print(line: str, stream: TextIO) -> None:
    """Where nobody can be told any more, the end of the run stays what it is."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=stream, flush=True)


def _tell_all(outcome: Outcome) -> None:
    write_termination_log(outcome)
    _tell(outcome)
