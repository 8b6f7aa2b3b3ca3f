"""The last things that a store is told."""

import threading
import time
from collections.abc import Iterator

import pytest

from job.console import Console
from job.errors import Interrupted
from job.processes import StopRequest, Task
from job.redact import redactor
from job.storage import s3_client
from job.supervisor import Supervisor
from tests.unit.attempts import ended_with, someone_elses, spec_for, still
from tests.unit.test_pusher import Said

PLACE = "s3://bucket/out"
SLOW_S = 6.0


@pytest.fixture
def supervisor(tmp_path, take) -> Iterator[Supervisor]:
    """One whose attempt has come to its end."""
    spec = spec_for(PLACE, work_dir=tmp_path, grace_s=25)
    made = Supervisor(spec, {}, Console(Said(), redactor({})), redactor({}), StopRequest())
    made._attempt = take(PLACE, spec)
    still(made._attempt)
    yield made
    for task in threading.enumerate():
        if isinstance(task, Task):
            task.join()  # what is under way in a slow store would end the next test's uploads


def test_when_the_grace_of_a_signal_is_over_a_slow_store_gets_three_seconds_more(s3_server, supervisor):
    supervisor._run.stop.since = time.monotonic() - 25
    s3_server.faults.plan("slow", seconds=SLOW_S, times=99)

    began = time.monotonic()
    supervisor._hand_in(ended_with(Interrupted("SIGTERM arrived.")))

    assert time.monotonic() - began < 3.5


def test_without_a_signal_a_slow_store_gets_its_time(s3_server, supervisor):
    s3_server.faults.plan("slow", path="attempts/0001/outcome", seconds=3, times=1)

    supervisor._hand_in(ended_with(Interrupted("")))

    assert "out/attempts/0001/outcome.json" in s3_server.keys("bucket")


@pytest.mark.parametrize("taken_over", [True, False])
def test_uploads_are_ended_unless_they_may_be_a_successors(s3_server, supervisor, taken_over):
    """Which has taken over while this machine slept: no heartbeat has noticed yet."""
    if taken_over:
        someone_elses(PLACE, number=2)
    s3_client.client().create_multipart_upload(Bucket="bucket", Key="out/checkpoints/step-00000001/optimizer.pt")

    supervisor._hand_in(ended_with(Interrupted("")))

    assert s3_server.open_uploads("bucket") == taken_over
