"""What `deploy/` holds of exit codes, generated from `job/errors.py`, and the start command in RunPod's template."""

import json
import re
from collections.abc import Container
from pathlib import Path

from job.errors import ERROR_CLASSES, Retry

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
# What may succeed on the same machine. Another host is what a machine by itself is not, and the operator's choice is no
# machine's.
HERE: tuple[Retry, ...] = ("counted", "uncounted")
NOT_HERE: tuple[Retry, ...] = ("never", "other_host", "operator")
# Of a cluster, which has other machines.
NOWHERE: tuple[Retry, ...] = ("never", "operator")


def codes(retries: Container[Retry], between: str = " ") -> str:
    """The exit codes of failures that are retried so."""
    return between.join(str(one.exit_code) for one in ERROR_CLASSES if one.retry in retries)


def service() -> str:
    """`deploy/lambda/graft.service`."""
    return _filled(DEPLOY / "lambda" / "graft.service", "RestartPreventExitStatus=", codes(NOT_HERE))


def start_script() -> str:
    """`deploy/runpod/start.sh`."""
    return _filled(DEPLOY / "runpod" / "start.sh", "RETRY_CODES=", f'"{codes(HERE)}"')


def template() -> str:
    """`deploy/runpod/template.json`, whose start command is the whole of start.sh: the image holds the job alone."""
    content = json.loads((DEPLOY / "runpod" / "template.json").read_text())
    content["dockerEntrypoint"] = ["/bin/bash", "-c"]
    content["dockerStartCmd"] = [start_script()]
    return json.dumps(content, indent=2) + "\n"


def _filled(path: Path, name: str, value: str) -> str:
    """The file at *path* with *value* on the line that begins with *name*."""
    return re.sub(rf"^{name}.*$", f"{name}{value}", path.read_text(), count=1, flags=re.MULTILINE)


def kubernetes_job() -> str:
    """`deploy/kubernetes/base/job.yaml`. What is in neither rule counts against its `backoffLimit`."""
    text = (DEPLOY / "kubernetes" / "base" / "job.yaml").read_text()
    for action, retries in (("FailJob", NOWHERE), ("Ignore", ("uncounted",))):
        rule = rf"(action: {action}\n\s+onExitCodes: .*values: )\[.*?\]"
        text = re.sub(rule, rf"\g<1>[{codes(retries, ', ')}]", text, count=1)
    return text


FILES = {
    "kubernetes/base/job.yaml": kubernetes_job,
    "lambda/graft.service": service,
    "runpod/start.sh": start_script,
    "runpod/template.json": template,
}
