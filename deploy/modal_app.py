"""The job on Modal, in the image's own container with the image's own entrypoint; docs/platforms/modal.md has the rest.

    modal run deploy/modal_app.py --env-file job.env --gpu H100:2

A Function without a GPU checks the job first. Modal imports this file in its containers too, for `check` and `train`.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import modal

ROOT = Path(__file__).resolve().parent.parent
if (ROOT / "job").is_dir():  # in the image PYTHONPATH has it
    sys.path.insert(0, str(ROOT))  # before the folder that `modal run` was called in

from job.errors import BadSpec, Interrupted, error_for  # noqa: E402
from job.redact import redactor  # noqa: E402

if TYPE_CHECKING:
    from deploy.modal_order import Order

MODELS = "/workspace/cache/models"  # what the job downloads under JOB_MODEL
CHECK_S = 3600  # every row passes the data gate
STOP_S = 120  # a timeout of Modal gives no notice, so the job is stopped so much earlier
RETRIES = modal.Retries(max_retries=5, initial_delay=10.0, backoff_coefficient=2.0)
AGAIN = ("counted", "uncounted", "other_host")  # a retry has a container, and mostly a host, of its own
FOLDERS = {"succeeded": "", "partial": "/partial", "rejected": "/rejected"}  # in the output, by status

app = modal.App("graft")


class RunAgain(Exception):
    """The job may succeed when it is run again. Its argument is the outcome of this attempt."""


def check(gpus: str) -> dict[str, Any]:
    """In a container without a GPU: whether the job would succeed on *gpus*."""
    return _job(["check", "--gpus", gpus], CHECK_S - STOP_S)


def train(limit_s: int) -> dict[str, Any]:
    """In a container with GPUs: the job. What no retry can mend is returned, so that it spends none.

    Raises:
        RunAgain: a retry may help.
    """
    outcome = _job(["run"], limit_s)
    if outcome["code"] and error_for(outcome["code"]).retry in AGAIN:
        raise RunAgain(outcome)
    return outcome


def _job(verb: Sequence[str], limit_s: int) -> dict[str, Any]:
    """Run the entrypoint, whose settings are in the environment already, and ask it to stop after *limit_s* seconds.
    Returns its outcome.

    Raises:
        KeyboardInterrupt: Modal takes the container away, and starts the same input in another without a retry.
    """
    python = os.environ.get("GRAFT_PYTHON", "/opt/venv/bin/python")
    program = os.environ.get("GRAFT_ENTRYPOINT", "/app/entrypoint.py")
    taken_away = threading.Event()
    job = subprocess.Popen([python, program, *verb], stdout=subprocess.PIPE, text=True, errors="replace")

    def pass_on(*_: object) -> None:
        taken_away.set()
        job.terminate()

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    timer = threading.Timer(limit_s, job.terminate)
    timer.start()
    try:
        outcome = _outcome(job)
    finally:  # also when Modal cancels the input, which is an exception out of nowhere
        timer.cancel()
        job.terminate()
        job.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    if taken_away.is_set() and outcome["code"] == Interrupted.exit_code:
        raise KeyboardInterrupt
    return outcome


def _outcome(job: "subprocess.Popen[str]") -> dict[str, Any]:
    """The last line of stdout. All lines are passed on to Modal's log."""
    last = ""
    for last in job.stdout or ():
        print(last, end="", flush=True)
    code = job.wait()
    try:
        if (outcome := json.loads(last))["code"] == code:
            return dict(outcome)
    except (ValueError, TypeError, KeyError):
        pass  # it was killed
    cause = f"The job ended with {code} and left no outcome."
    return {"status": "failed", "code": error_for(code).exit_code, "cause": cause, "fix": "See the end of its log."}


def make_functions(order: "Order") -> "tuple[modal.Function, modal.Function]":
    """The one that checks and the one that trains, with all that *order* says of them."""
    volume = modal.Volume.from_name("graft-models", create_if_missing=True)
    job: dict[str, Any] = {
        "image": _image(),
        "secrets": [*map(modal.Secret.from_name, order.secrets), modal.Secret.from_dict(dict(order.env))],
        "volumes": {MODELS: volume},
        "single_use_containers": True,
        "restrict_modal_access": True,  # it wants nothing of the workspace
    }
    gpus: dict[str, Any] = {
        "gpu": f"{order.gpu}:{order.count}",
        "cpu": 4.0 * order.count,
        "memory": 16384 * order.count,
    }
    checking = app.function(cpu=4.0, memory=8192, timeout=CHECK_S, **job)(check)
    training = app.function(**gpus, timeout=order.timeout_s, retries=RETRIES, **job)(train)
    return checking, training


def _image() -> modal.Image:
    if tag := os.environ.get("GRAFT_IMAGE"):
        secret = os.environ.get("GRAFT_IMAGE_SECRET")
        image = modal.Image.from_registry(tag, secret=modal.Secret.from_name(secret) if secret else None)
    else:
        image = modal.Image.from_dockerfile(ROOT / "Dockerfile", context_dir=ROOT)
    return image.entrypoint([])  # Modal starts a program of its own, which starts the job


@app.local_entrypoint()
def main(*_: str) -> None:
    """Check, train, tell, and end as the job has ended."""
    outcome = CHECKING.remote(ORDER.gpus)
    if outcome["code"]:
        print("The check has found what would end the job; no GPU was asked for.")
    else:
        try:  # spawned, so that Modal is who retries, also when this machine is switched off (modal run --detach)
            outcome = TRAINING.spawn(ORDER.timeout_s - STOP_S).get()
        except RunAgain as spent:
            outcome = spent.args[0]
    _tell(outcome, ORDER.env.get("JOB_OUTPUT_URI", ""))
    raise SystemExit(outcome["code"])


def _tell(outcome: Mapping[str, Any], outputs: str) -> None:
    print(f"{outcome['status']} ({outcome['code']}): {outcome['cause']} {outcome['fix']}".rstrip())
    if (folder := FOLDERS.get(outcome["status"])) is not None:
        for uri in filter(None, outputs.split(",")):
            print(f"result: {uri.strip().rstrip('/')}{folder}")


def _words_behind(argv: Sequence[str]) -> list[str] | None:
    """What stands behind this file in the command line of `modal run`; None for any other program that imports it."""
    names = [Path(word.partition("::")[0]).name for word in argv[1:]]
    return list(argv[names.index(Path(__file__).name) + 2 :]) if Path(__file__).name in names else None


# At import: image and Functions depend on the arguments, and `modal run` makes them before it calls `main`.
if modal.is_local() and (words := _words_behind(sys.argv)) is not None:
    from deploy.modal_order import take_order

    try:
        ORDER = take_order(words)
    except BadSpec as error:
        print(redactor(os.environ)(str(error)), file=sys.stderr)
        sys.exit(BadSpec.exit_code)
    CHECKING, TRAINING = make_functions(ORDER)
