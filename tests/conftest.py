"""Stores that tests talk to over the wire, with the environment that points the SDKs at them."""

# The servers are imported by the tests that use them: moto alone takes longer than most tests.
from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.servers.hub_server import HubServer
    from tests.servers.s3_server import S3Server


@pytest.fixture(scope="session", autouse=True)
def torch_extensions(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What DeepSpeed compiles serves all tests of this session, and no lock of an earlier one that was killed makes
    them wait for ever."""
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if base.name.startswith("popen-") else base  # as pytest-xdist names those of its workers
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(folder / "torch_extensions"))


@pytest.fixture
def hangup() -> Iterator[None]:
    """SIGHUP ends a process that a test starts, as it does where nobody ignores it; who runs the tests may."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="session")
def running_s3_server() -> Iterator[S3Server]:
    from tests.servers.s3_server import S3Server

    with S3Server() as server:
        yield server


@pytest.fixture
def s3_server(running_s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Server:
    """An S3 store with one empty bucket, ``bucket``. ``AWS_*`` point at it and allow two tries per request."""
    from job.storage import s3_client
    from tests.servers.s3_server import ACCESS_KEY, REGION, SECRET_KEY

    s3_client.client.cache_clear()
    running_s3_server.reset()
    running_s3_server.make_bucket("bucket")
    environment = {
        "AWS_ENDPOINT_URL": running_s3_server.url,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_MAX_ATTEMPTS": "2",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "no-aws-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no-aws-credentials"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return running_s3_server


@pytest.fixture(scope="session")
def running_hub_server() -> Iterator[HubServer]:
    from tests.servers.hub_server import HubServer

    with HubServer() as server:
        yield server


@pytest.fixture
def hub_server(running_hub_server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> HubServer:
    """A Hub without repositories. ``HF_*`` point at it with a token that may write, here and in child processes."""
    from huggingface_hub import constants

    from job.storage import patience
    from tests.servers.hub_server import WRITE_TOKEN

    running_hub_server.reset()
    point_hub_at(monkeypatch, running_hub_server.url)
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf/hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf/token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(patience, "LONGEST_WAIT_S", 0.01)
    return running_hub_server


def point_hub_at(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """The client reads HF_ENDPOINT when it is imported; what it read then is replaced too."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
