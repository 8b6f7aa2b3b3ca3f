"""The quick part of the faults, for every run of the tests; ``make chaos`` tries them all."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.table import Fault, faults
from tests.chaos.world import BUCKET, Stage, World
from tests.servers.s3_server import S3Server

pytestmark = pytest.mark.slow

SUBSET = [(fault, processes) for fault in faults() for processes in fault.quick]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with S3Server() as server:
        server.reset()  # all servers of a process share their buckets
        server.make_bucket(BUCKET)
        yield Stage(tmp_path_factory.mktemp("chaos"), server, seed=20)


@pytest.mark.parametrize(("fault", "processes"), SUBSET, ids=[f"{fault.name}, {n}" for fault, n in SUBSET])
def test_a_job_survives(stage: Stage, tmp_path: Path, fault: Fault, processes: int) -> None:
    try:
        said = fault.act(World(stage, processes, tmp_path.name))
    finally:
        stage.server.faults.clear()

    assert said, "every act asserts what it is about, and says what happened"
