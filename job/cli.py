"""The verbs a person can type. Without one the job runs."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from job import __version__
from job.child import as_job_error
from job.console import Console
from job.endpoints import refuse_endpoints
from job.environment import SPEC_URI, load_spec, platform_names
from job.errors import BadSpec
from job.outcome import failure, to_line, write_termination_log
from job.processes import StopRequest, Task
from job.records import Outcome
from job.redact import Redactor, redactor
from job.spec import JobSpec

USAGE = """usage: python entrypoint.py [run | schema | --version | --help]

run      (the default) fine-tune as the JOB_* variables say; docs/environment.md lists them
schema   print the JSON schema of the spec (JOB_SPEC_URI)
"""


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    """Run the verb in *argv* with the settings in *env*. Returns the exit code."""
    match list(argv):
        case [] | ["run"]:
            return run(env)
        case ["schema"]:
            print(json.dumps(JobSpec.model_json_schema(), indent=1))
            return 0
        case ["--version"]:
            print(f"graft {__version__}")
            return 0
        case ["--help" | "-h"]:
            print(USAGE, end="")
            return 0
        case _:
            print(USAGE, end="", file=sys.stderr)
            return BadSpec.exit_code


def run(env: Mapping[str, str]) -> int:
    """Run the job. The last line of stdout is the outcome as JSON, also under ``/dev/termination-log``."""
    redact = redactor(env)
    with StopRequest() as stop:
        try:
            outcome = _run(env, redact, stop)
        except Exception as error:  # every end has an outcome
            outcome = failure(as_job_error(error), "load", None, redact)
    _tell(outcome)
    return outcome.code


def _run(env: Mapping[str, str], redact: Redactor, stop: StopRequest) -> Outcome:
    refuse_endpoints(env)
    spec = load_spec(env, _base_spec(env, stop))
    console = Console(sys.stderr, redact, quiet=spec.log_level == "warning")
    if ignored := platform_names(env):
        console.say(f"ignored, set by the platform: {', '.join(ignored)}")
    from job.supervisor import Supervisor  # the SDKs behind it are not needed to refuse a bad spec

    return Supervisor(spec, env, console, redact, stop).run()


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
        raise BadSpec(f"{SPEC_URI}={text}: {error}.", "Give a YAML or JSON file with one setting per key.") from error
    if not isinstance(settings, dict):
        raise BadSpec(f"{SPEC_URI}={text} holds {type(settings).__name__}, not settings.", "Write `name: value` lines.")
    return settings


def _tell(outcome: Outcome) -> None:
    words = f"{outcome.cause} {outcome.fix}".strip()
    print(
        words if outcome.code == 0 else f"{outcome.error_class} ({outcome.code}) in {outcome.phase}: {words}",
        file=sys.stderr,
    )
    sys.stderr.flush()
    print(to_line(outcome), flush=True)
    write_termination_log(outcome)
