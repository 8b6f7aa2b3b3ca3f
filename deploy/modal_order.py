"""What the command line of deploy/modal_app.py asks for, refused where the job could not succeed. Nothing of it runs at
Modal, and nothing has been made there yet."""

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from job.errors import BadSpec

DAY_S = 24 * 3600  # Modal's longest timeout: modal.com/docs/guide/timeouts
MARGIN_S = 600  # on top of JOB_MAX_HOURS, before which the job has saved, published and ended by itself
# Settings that name a place, and credentials that are files.
PLACES = re.compile(r"JOB_(MODEL|REWARD_MODEL|CHAT_TEMPLATE|WORK_DIR|\w+_URI)|(AWS|HF)_\w+_(FILE|PATH)")
MODAL_NAMES = {"H100-80GB": "H100", "A10G": "A10"}  # where the job's names differ from modal.com/docs/guide/gpu


@dataclass(frozen=True)
class Order:
    env: dict[str, str]
    gpu: str  # in Modal's words
    count: int
    secrets: tuple[str, ...]  # Modal's names of them

    @property
    def gpus(self) -> str:
        """As the job says it, which knows no ``H100!`` (that and nothing better) and no ``B200+`` (that or better)."""
        return f"{self.gpu.rstrip('!+')}:{self.count}"

    @property
    def timeout_s(self) -> int:
        """Of one attempt."""
        try:
            return min(DAY_S, int(float(self.env.get("JOB_MAX_HOURS", DAY_S)) * 3600) + MARGIN_S)
        except (ValueError, OverflowError):
            return DAY_S  # the job has its own words for such a setting


def take_order(words: Sequence[str]) -> Order:
    """Read the command line behind the file's name.

    Raises:
        BadSpec: the job could not succeed.
        SystemExit: a word that is not understood, or ``--help``.
    """
    parser = argparse.ArgumentParser("modal run deploy/modal_app.py", allow_abbrev=False)
    parser.add_argument("--env-file", type=Path, required=True, help="JOB_ variables and credentials, as for docker")
    parser.add_argument("--gpu", required=True, help="H100:2 or 2xH100-80GB")
    parser.add_argument("--secret", action="append", default=[], metavar="NAME", help="a Modal Secret; may be repeated")
    asked = parser.parse_args(words)
    env = read_env_file(asked.env_file, os.environ)
    _refuse_places_here(env)
    form = re.fullmatch(r"(?:(\d+)[x×])?([\w-]+?[!+]?)(?::(\d+))?", asked.gpu)
    if form is None or (form[1] and form[3]):
        raise BadSpec(f"--gpu {asked.gpu} is not of the form H100:2.", "Name one of Modal's GPUs and how many.")
    gpu = MODAL_NAMES.get(form[2].upper(), form[2])
    order = Order(env, gpu, int(form[1] or form[3] or 1), tuple(asked.secret))
    _refuse_settings(order)
    return order


def read_env_file(path: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables in *path* as ``docker run --env-file`` takes them: no quotes, no expansion, and a name alone stands
    for the variable in *environ*. What is empty is unset to the job, and would hide what a Secret has under that name.

    Raises:
        BadSpec: it cannot be read, or a line has no proper name. No value is repeated.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "it is not UTF-8")
        raise BadSpec(f"--env-file {path} cannot be read: {reason}.", "Give the file with JOB_ variables.") from error
    env = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.lstrip().partition("=")
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise BadSpec(f"{path}:{number} does not begin with the name of a variable.", "Write NAME=value.")
        env[name] = value if equals else environ.get(name, "")
    return {name: value for name, value in env.items() if value.strip()}


def _refuse_places_here(env: Mapping[str, str]) -> None:
    for name, value in env.items():
        places = value.split(",") if PLACES.fullmatch(name) else []
        if any(place.strip().startswith(("/", ".", "~", "file:")) for place in places):
            cause = f"{name}={value} is a place on this machine, which no container of Modal can see."
            raise BadSpec(cause, "Use s3://bucket/key or hf://org/name, or leave it out.")


def _refuse_settings(order: Order) -> None:
    """What the job itself would refuse, where the packages that it needs to tell are here."""
    try:
        from job.environment import SPEC_URI, load_spec
        from job.facts.gpus import parse_gpus
    except ImportError as missing:
        print(f"The settings are not checked here but only at Modal: {missing}.", file=sys.stderr)
        return
    if SPEC_URI not in order.env:
        load_spec(order.env)
    try:
        parse_gpus(order.gpus)
    except ValueError as error:
        raise BadSpec(f"--gpu: {error}.") from error
