"""What `deploy/` holds of exit codes, generated from `job/errors.py`, and the start command in RunPod's template."""

import json
import re
from pathlib import Path

from job.errors import ERROR_CLASSES

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
# Another host is what a pod or a machine by itself is not, and the operator's choice is no machine's.
_HERE = ("counted", "uncounted")


def codes(*, again: bool) -> str:
    """The exit codes after which the same job may succeed on the same machine, or all other failures."""
    return " ".join(str(one.exit_code) for one in ERROR_CLASSES if (one.retry in _HERE) is again)


def service() -> str:
    """`deploy/lambda/graft.service`."""
    return _filled(DEPLOY / "lambda" / "graft.service", "RestartPreventExitStatus=", codes(again=False))


def start_script() -> str:
    """`deploy/runpod/start.sh`."""
    return _filled(DEPLOY / "runpod" / "start.sh", "RETRY_CODES=", f'"{codes(again=True)}"')


def template() -> str:
    """`deploy/runpod/template.json`, whose start command is the whole of start.sh: the image holds the job alone."""
    content = json.loads((DEPLOY / "runpod" / "template.json").read_text())
    content["dockerEntrypoint"] = ["/bin/bash", "-c"]
    content["dockerStartCmd"] = [start_script()]
    return json.dumps(content, indent=2) + "\n"


def _filled(path: Path, name: str, value: str) -> str:
    """The file at *path* with *value* on the line that begins with *name*."""
    return re.sub(rf"^{name}.*$", f"{name}{value}", path.read_text(), count=1, flags=re.MULTILINE)


FILES = {"lambda/graft.service": service, "runpod/start.sh": start_script, "runpod/template.json": template}
