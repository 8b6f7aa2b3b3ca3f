"""The engine and the image that every test here shares."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.container.base_image import ROOT, engine_with_base
from tests.container.docker_engine import Docker, NoEngine

IMAGE = "graft:test"


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    """A running engine that holds the Dockerfile's base image."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "graft-tests", "docker")
    with ExitStack() as stack:
        try:
            engine = stack.enter_context(engine_with_base(cache))
        except NoEngine as reason:
            pytest.skip(f"no container engine: {reason}")
        yield engine


@pytest.fixture(scope="session")
def image(docker: Docker) -> str:
    """The real Dockerfile, built with the developer's lock, because the image's holds gigabytes of CUDA."""
    labels = {"VERSION": "1.2.3", "REVISION": "abc", "SOURCE": "https://example.org/x"}
    arguments = [f"--build-arg={name}={value}" for name, value in {"LOCK": "dev", **labels}.items()]
    options = ("--network=host", *arguments, f"--tag={IMAGE}")
    docker.must("build", *options, str(ROOT), timeout_s=1800)
    return IMAGE
