"""Credentials that must turn up nowhere, and where to look for them while a job runs and afterwards."""

import base64
import json
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

import psutil

from tests.servers.hub_server import WRITE_TOKEN
from tests.servers.s3_server import ACCESS_KEY, SECRET_KEY

# The first three are used by the run itself, so they reach the SDKs, their errors and their debug output.
CANARIES = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "HF_TOKEN": WRITE_TOKEN,
    "AWS_SESSION_TOKEN": "canary+session/token==",
    "HUGGING_FACE_HUB_TOKEN": "canary-old-hub-token",
    "WANDB_API_KEY": "canary-wandb-key",
    "MLFLOW_TRACKING_PASSWORD": "canary-mlflow-password",
    "MLFLOW_TRACKING_TOKEN": "canary-mlflow-token",
    "DATABRICKS_TOKEN": "canary-databricks-token",
    "RUNPOD_API_KEY": "canary-runpod-key",
    "LAMBDA_API_KEY": "canary-lambda-key",
    "MODAL_TOKEN_SECRET": "canary-modal-secret",
}
# Credentials inside a URL, under names that tell nothing: of the value only the password is secret.
IN_URLS = {
    "HTTPS_PROXY": ("http://someone:{}@127.0.0.1:9", "canary-proxy-password"),
    "MLFLOW_TRACKING_URI": ("https://someone:{}@mlflow.invalid", "canary-mlflow-uri-password"),
}
SECRETS = CANARIES | {name: secret for name, (_, secret) in IN_URLS.items()}


def planted() -> dict[str, str]:
    """The environment with every canary in its place."""
    return CANARIES | {name: form.format(secret) for name, (form, secret) in IN_URLS.items()}


def leaks(places: Mapping[str, bytes]) -> list[str]:
    """Which canary stands in which of *places*, in any of the spellings that text takes on its way."""
    spelled = {name: set(_spellings(secret)) for name, secret in SECRETS.items()}
    return [
        f"{name} in {place}"
        for place, content in places.items()
        for name, spellings in spelled.items()
        if any(spelling in content for spelling in spellings)
    ]


def _spellings(secret: str) -> Iterable[bytes]:
    yield secret.encode()
    yield quote(secret, safe="").encode()
    yield json.dumps(secret)[1:-1].encode()
    yield base64.b64encode(secret.encode()).rstrip(b"=")[:-1]  # the last character depends on what follows


def files_under(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Descendants(threading.Thread):
    """Collects what all descendants of process *pid* show of themselves in /proc, ten times a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.seen: dict[str, bytes] = {}
        self.modules: set[str] = set()
        self._root, self._over = psutil.Process(pid), threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.1):
            try:
                for child in self._root.children(recursive=True):
                    self._look(Path(f"/proc/{child.pid}"))
            except psutil.NoSuchProcess:
                return

    def _look(self, folder: Path) -> None:
        try:
            argv = (folder / "cmdline").read_bytes()
            if b"entrypoint.py" in argv or not argv:  # forked, and not yet what it will be
                return
            self.seen[f"argv of {folder.name}"] = argv
            self.seen[f"environment of {folder.name}"] = (folder / "environ").read_bytes()
            self.modules |= {word.decode() for word in argv.split(b"\0") if word.startswith(b"job.")}
        except OSError:  # it is gone
            return

    def stop(self) -> None:
        self._over.set()
        self.join()
