"""Checkpoints on their way to a store, in the background."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from job.console import Console
from job.errors import AccessDenied, OutputTaken
from job.outbox import trim
from job.processes import StopRequest
from job.pusher import Pusher
from job.records import Layout
from job.redact import redactor
from job.run import Run
from job.rundir import write_bytes, write_json
from job.spec import JobSpec
from job.storage import open_store
from job.uri import parse_uri
from tests.unit.test_durable import layout

FOREVER = float("inf")


class Said(list[str]):
    """What a person is told."""

    def write(self, text: str) -> None:
        self.append(text)

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return False


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def run(tmp_path: Path, said: Said, s3_server) -> Run:
    spec = JobSpec(
        model="org/m", dataset_uri="org/d", output_uri=("s3://bucket/out",), work_dir=tmp_path, save_total_limit=2
    )
    made = Run(spec, {}, Console(said, redactor({})), StopRequest())
    made.dir.outbox.mkdir(parents=True)
    return made


def attempt(confirm=lambda: None) -> SimpleNamespace:
    return SimpleNamespace(store=open_store(parse_uri("s3://bucket/out", "output")), number=1, confirm=confirm)


def save(run: Run, step: int, eval_loss: float | None = None) -> Layout:
    """What a worker leaves in the outbox."""
    folder, made = run.dir.outgoing(step), layout(step, eval_loss)
    temporary = folder.with_name(f".{step}")
    write_bytes(temporary / "adapter_model.safetensors", f"adapter of {step}".encode())
    write_bytes(temporary / "global_step" / "states.pt", b"s" * step)
    write_json(temporary / "layout.json", made)
    temporary.rename(folder)
    return made


def stored(s3_server) -> list[int]:
    keys = s3_server.keys("bucket")
    return sorted(int(key.split("step-")[1].split("/")[0]) for key in keys if key.endswith("manifest.json"))


def wait_for(what, timeout_s: float = 10) -> None:
    end = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def pushed(run: Run, durable: list[Layout] | None = None, holder: SimpleNamespace | None = None) -> Pusher:
    pusher = Pusher(run, holder or attempt(), durable or [], 0.0)
    pusher.start()
    return pusher


def test_what_waits_is_pushed_with_its_manifest_and_told(run, s3_server):
    save(run, 7)
    pushed(run).flush(lambda: FOREVER)

    manifest = json.loads(s3_server.keys("bucket")["out/checkpoints/step-00000007/manifest.json"])
    assert set(manifest["files"]) == {"adapter_model.safetensors", "global_step/states.pt", "layout.json"}
    assert manifest["fingerprint"] == run.spec.fingerprint
    assert (manifest["layout"]["step"], run.live.progress.last_durable_step) == (7, 7)
    assert json.loads(run.dir.pushed.read_text()) == {"upload_s": run.live.measured.upload_s}
    assert run.live.measured.upload_s > 0
    assert [*run.dir.outbox.iterdir(), *run.dir.sending.iterdir()] == []


def test_the_newest_two_and_the_best_stay_in_the_output(run, s3_server):
    pusher = pushed(run)
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, None)):
        save(run, step, loss)
        wait_for(lambda step=step: step in stored(s3_server))

    pusher.flush(lambda: FOREVER)
    assert stored(s3_server) == [2, 4, 5]


def test_while_the_store_is_slow_the_newest_overtakes_the_older_but_not_the_best(run, s3_server):
    save(run, 1, 5.0)
    save(run, 2, 1.0)
    save(run, 3)
    save(run, 4)
    pushed(run).flush(lambda: FOREVER)

    assert stored(s3_server) == [2, 4]


def test_a_store_that_cannot_be_reached_is_tried_again_and_training_is_told_nothing(run, s3_server, said, monkeypatch):
    monkeypatch.setattr("job.pusher._RETRY_S", 0.1)
    s3_server.faults.plan(path="adapter_model", times=2)
    save(run, 7)
    pusher = pushed(run)

    wait_for(lambda: stored(s3_server) == [7])
    pusher.check()
    assert "step-00000007 is not durable yet" in "".join(said)


def test_workers_may_drop_what_waits_while_one_is_on_its_way(run, s3_server):
    s3_server.faults.plan("slow", path="step-00000001/adapter_model", seconds=1)
    save(run, 1)
    pusher = pushed(run)
    wait_for(lambda: any("step-00000001/adapter_model" in request.path for request in s3_server.requests))
    for step in (2, 3, 4):
        save(run, step)
    trim(run.dir.outbox, 1)

    pusher.flush(lambda: FOREVER)
    assert stored(s3_server) == [1, 4]


def test_what_could_not_be_pushed_waits_again(run, s3_server, said):
    s3_server.faults.plan(path="adapter_model", times=9)
    save(run, 7)
    pusher = pushed(run)
    wait_for(lambda: "not durable yet" in "".join(said))
    pusher.stop()
    pusher.join(10)

    assert [path.name for path in run.dir.outbox.iterdir()] == ["step-00000007"]
    assert list(run.dir.sending.iterdir()) == []


def test_a_store_that_refuses_is_a_reason_to_stop(run, s3_server):
    s3_server.faults.plan(status=403, code="AccessDenied", method="PUT|DELETE", path="checkpoints", times=9)
    save(run, 7)
    pusher = pushed(run)
    pusher.join(10)

    with pytest.raises(AccessDenied):
        pusher.check()


def test_another_attempt_that_has_taken_over_is_found_before_anything_is_written(run, s3_server):
    def taken() -> None:
        raise OutputTaken("Attempt 2 has taken over")

    save(run, 7)
    pusher = pushed(run, holder=attempt(confirm=taken))
    pusher.join(10)

    with pytest.raises(OutputTaken):
        pusher.check()
    assert s3_server.keys("bucket") == {}


def test_a_flush_waits_no_longer_than_it_may(run, s3_server):
    s3_server.faults.plan("slow", path="adapter_model", seconds=3, times=1)
    save(run, 7)
    pusher, began = pushed(run), time.monotonic()

    pusher.flush(lambda: began + 0.5)

    assert 0.4 < time.monotonic() - began < 2
    pusher.join()  # what is under way belongs to no other test


def test_when_the_result_itself_is_there_what_still_waits_is_not_pushed(run, s3_server):
    s3_server.faults.plan("slow", path="step-00000001/adapter_model", seconds=1)
    save(run, 1)
    pusher = pushed(run)
    wait_for(lambda: any("step-00000001/adapter_model" in request.path for request in s3_server.requests))
    save(run, 2)

    pusher.stop()
    pusher.join(10)

    assert not pusher.is_alive()
    assert stored(s3_server) == [1]
