"""Stores that fail for a while, for ever, or in the middle of a copy; credentials that run out."""

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from job.errors import AccessDenied, NetworkExhausted, UnsuitableHost
from job.storage import Store, open_store, patience, s3_client
from job.uri import parse_uri
from tests.servers.faults import FOREVER
from tests.servers.hub_server import HubServer
from tests.servers.s3_server import ACCESS_KEY, SECRET_KEY, TEMPORARY_KEY, S3Server

MIB = 2**20
SHM = Path("/dev/shm")

# The Hub's client hands a file to httpx in a way that is going out of use.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=.*:DeprecationWarning")


def store_at(uri: str, branch: str | None = None) -> Store:
    return open_store(parse_uri(uri, "output"), branch=branch)


@pytest.fixture
def patient_s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A store that is given as much time as in a run, with shorter waits."""
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    monkeypatch.setattr(patience, "LONGEST_WAIT_S", 0.05)
    s3_client.client.cache_clear()
    return s3_server


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Twenty files, two of which are uploaded in parts."""
    (tmp_path / "source").mkdir()
    for number in range(20):
        size = 17 * MIB if number < 2 else 1000
        (tmp_path / f"source/{number:02}.bin").write_bytes(os.urandom(size))
    return {path.name: path for path in (tmp_path / "source").iterdir()}


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def there(server: S3Server, folder: str, files: dict[str, Path]) -> bool:
    keys = server.keys("bucket")
    return all(keys[f"{folder}/{name}"] == path.read_bytes() for name, path in files.items())


def test_a_request_that_was_given_up_does_not_reach_the_store_of_the_next_test(
    patient_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "_READ_S", 0.2)
    patient_s3.faults.plan("slow", method="PUT", seconds=1)
    assert store_at("s3://bucket/run").create("claim.json", b"1") is True
    patient_s3.reset()
    patient_s3.make_bucket("bucket")
    time.sleep(1.2)
    assert patient_s3.keys("bucket") == {}


@pytest.mark.parametrize("seed", range(2))
def test_everything_goes_through_while_a_third_of_all_requests_fail(
    patient_s3: S3Server, files: dict[str, Path], tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "_READ_S", 0.5)
    patient_s3.faults.clear(seed)
    for kind in ("status", "reset", "lost"):
        patient_s3.faults.plan(kind, share=0.1, times=FOREVER)
    patient_s3.faults.plan("slow", share=0.02, times=FOREVER, seconds=1)
    store = store_at("s3://bucket/run")
    assert store.probe_write() is True
    assert store.create("claim.json", b"1") is True
    store.replace("step", files, b"1")
    store.replace("step", files, b"2")
    store.fetch([file for file in store.snapshot().files if file.path.startswith("step/")], tmp_path / "out")
    store_at("s3://bucket/run/result").publish(files, b"{}")
    assert there(patient_s3, "run/step", files)
    assert there(patient_s3, "run/result", files)
    assert (tmp_path / "out/step/00.bin").read_bytes() == files["00.bin"].read_bytes()
    store.delete("step")
    store.abort_uploads()
    assert patient_s3.open_uploads("bucket") == 0


def test_an_outage_under_many_uploads_at_once_is_outlasted(patient_s3: S3Server, files: dict[str, Path]) -> None:
    patient_s3.faults.plan("reset", times=100)  # the SDK's own quota ends with the 36th
    store_at("s3://bucket/run").publish(files, b"{}")
    assert there(patient_s3, "run", files)


def test_a_completed_upload_whose_answer_is_lost_is_complete(patient_s3: S3Server, files: dict[str, Path]) -> None:
    patient_s3.faults.plan("lost", method="POST", path="/00.bin$", after=1)  # begun, then completed
    patient_s3.faults.plan(method="POST", path="/00.bin$", after=1, status=404, code="NoSuchUpload")
    store_at("s3://bucket/run").publish({"00.bin": files["00.bin"]}, b"{}")
    assert there(patient_s3, "run", {"00.bin": files["00.bin"]})


@pytest.mark.parametrize("kind", ["status", "reset", "slow"])
@pytest.mark.parametrize("after", [0, 10])
def test_an_upload_of_many_files_gives_up_once_for_all_of_them(
    patient_s3: S3Server, files: dict[str, Path], kind: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 0.5)
    monkeypatch.setattr(s3_client, "_TIDYING_S", 0.5)
    monkeypatch.setattr(s3_client, "_READ_S", 0.25)
    patient_s3.faults.plan(kind, after=after, times=FOREVER, seconds=1)
    began = time.monotonic()
    with pytest.raises(NetworkExhausted, match="s3://bucket/run"):
        store_at("s3://bucket/run").publish(files, b"{}")
    assert time.monotonic() - began < 5  # about twice 0.5 + 2 * 0.25: the request, and the end of its parts


def test_a_certificate_that_is_not_trusted_is_not_tried_again(patient_s3: S3Server, tmp_path: Path) -> None:
    with S3Server(tls_folder=tmp_path) as server, pytest.MonkeyPatch.context() as context:
        context.setenv("AWS_ENDPOINT_URL", server.url)
        context.setattr("time.sleep", lambda seconds: pytest.fail("it waits for another try"))
        with pytest.raises(NetworkExhausted, match="SSLError"):
            store_at("s3://bucket").read("a")


@pytest.mark.parametrize("seed", range(2))
def test_the_hub_is_written_and_read_while_a_third_of_all_requests_fail(
    hub_server: HubServer, files: dict[str, Path], tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client's own waits too
    hub_server.add("org/name", {})
    hub_server.faults.clear(seed)
    for kind in ("status", "reset", "lost"):
        hub_server.faults.plan(kind, share=0.1, times=FOREVER)
    few = {name: path for name, path in files.items() if name < "04.bin"}
    store = store_at("hf://org/name", "graft-run")
    store.replace("step", few, b"1")
    store.put("status.json", b"{}")
    store.replace("step", few, b"2")
    assert store.create("claim.json", b"1") is True
    store.fetch([file for file in store.snapshot().files if file.path.startswith("step/")], tmp_path / "out")
    assert (tmp_path / "out/step/00.bin").read_bytes() == few["00.bin"].read_bytes()
    store.delete("step")
    assert set(hub_server.files("org/name", "graft-run")) == {"status.json", "claim.json"}


PUBLISH = """
    import sys
    from pathlib import Path
    from job.storage import open_store
    from job.uri import parse_uri
    open_store(parse_uri("s3://bucket/run", "output")).publish({"big": Path(sys.argv[1])}, b"{}")
"""


def test_what_a_killed_process_left_open_is_ended_and_nothing_else(s3_server: S3Server, files: dict[str, Path]) -> None:
    s3_server.faults.plan("slow", method="PUT", path="/big$", times=FOREVER, seconds=5)
    publisher = subprocess.Popen([sys.executable, "-c", textwrap.dedent(PUBLISH), str(files["00.bin"])])
    wait_for(lambda: any("partNumber" in request.query for request in s3_server.requests))
    publisher.send_signal(signal.SIGKILL)
    publisher.wait()
    s3_client.client().create_multipart_upload(Bucket="bucket", Key="run2/big")
    assert s3_server.open_uploads("bucket") == 2
    store_at("s3://bucket/run").abort_uploads()
    assert s3_server.open_uploads("bucket") == 1
    store_at("s3://bucket").abort_uploads()  # a whole bucket is others' too
    assert s3_server.open_uploads("bucket") == 1


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (501, "NotImplemented"), (404, "NoSuchUpload")])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_store_that_does_not_let_uploads_be_ended_is_left_as_it_is(
    s3_server: S3Server, method: str, status: int, code: str
) -> None:
    s3_client.client().create_multipart_upload(Bucket="bucket", Key="run/big")
    s3_server.faults.plan(method=method, times=FOREVER, status=status, code=code)
    store_at("s3://bucket/run").abort_uploads()
    assert s3_server.open_uploads("bucket") == 1


HAND_OUT = """
    import json, time
    end = int(time.time()) + 3
    print(json.dumps({
        "Version": 1, "AccessKeyId": f"KEY{end}", "SecretAccessKey": "SECRET", "SessionToken": "a-session-token",
        "Expiration": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end)),
    }))
"""


@pytest.fixture
def short_lived_keys(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ``credential_process`` whose keys are good for three seconds."""
    script = tmp_path / "hand_out.py"
    script.write_text(textwrap.dedent(HAND_OUT).replace("KEY{", f"{TEMPORARY_KEY}{{").replace("SECRET", SECRET_KEY, 1))
    config = tmp_path / "aws-config"
    config.write_text(f"[default]\ncredential_process = {shlex.join([sys.executable, str(script)])}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    s3_client.client.cache_clear()


def test_keys_that_run_out_are_exchanged_for_new_ones(s3_server: S3Server, short_lived_keys: None) -> None:
    store = store_at("s3://bucket")
    for beat in range(3):
        store.put("heartbeat.json", b"%d" % beat)
        time.sleep(1.6)
    assert s3_server.keys("bucket") == {"heartbeat.json": b"2"}
    used = {request.headers["authorization"].split("/")[0] for request in s3_server.requests}
    assert len(used) > 1
    assert not any(ACCESS_KEY in key for key in used)


def test_an_upload_that_outlives_its_keys_goes_on_with_new_ones(
    s3_server: S3Server, short_lived_keys: None, files: dict[str, Path]
) -> None:
    s3_server.faults.bytes_per_s = 9 * MIB  # four seconds
    store_at("s3://bucket/run").publish(files, b"{}")
    assert there(s3_server, "run", files)


@pytest.mark.parametrize("action", ["snapshot", "read", "put", "create", "replace", "delete"])
def test_keys_that_ran_out_and_cannot_be_exchanged_are_access_denied(
    s3_server: S3Server, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"{TEMPORARY_KEY}{time.time() - 60:.0f}")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-session-token")
    store = store_at("s3://bucket/run")
    acts: dict[str, Callable[[], object]] = {
        "snapshot": store.snapshot,
        "read": lambda: store.read("a"),
        "put": lambda: store.put("a", b""),
        "create": lambda: store.create("a", b""),
        "replace": lambda: store.replace("step", files, b"{}"),
        "delete": lambda: store.delete("step"),
    }
    with pytest.raises(AccessDenied, match="ExpiredToken") as refusal:
        acts[action]()
    assert SECRET_KEY not in str(refusal.value)
    assert "a-session-token" not in str(refusal.value)


def test_keys_that_run_out_under_a_credential_process_that_fails_are_access_denied(
    s3_server: S3Server, short_lived_keys: None, tmp_path: Path
) -> None:
    store = store_at("s3://bucket")
    store.put("a", b"")
    (tmp_path / "hand_out.py").write_text("raise SystemExit('no')")
    time.sleep(3)
    with pytest.raises(AccessDenied, match="no usable credentials"):
        store.put("a", b"")


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """The kernel refuses writes beyond *size* bytes of a file, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.skipif(not SHM.is_mount(), reason="no second file system to fill")
@pytest.mark.parametrize("kind", ["file", "s3", "hf"])
def test_a_disk_that_fills_up_while_files_are_fetched_is_named_by_its_mount(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    data = os.urandom(17 * MIB)
    if kind == "s3":
        request.getfixturevalue("s3_server").put("bucket", "big.bin", data)
    elif kind == "hf":
        request.getfixturevalue("hub_server").add("org/name", {"big.bin": data})
    else:
        (tmp_path / "store").mkdir()
        (tmp_path / "store/big.bin").write_bytes(data)
    store = store_at({"file": str(tmp_path / "store"), "s3": "s3://bucket", "hf": "hf://org/name"}[kind])
    listed = store.snapshot().files
    with tempfile.TemporaryDirectory(dir=SHM) as folder:
        with pytest.raises(UnsuitableHost, match="No space left on /dev/shm "), no_file_longer_than(4 * MIB):
            store.fetch(listed, Path(folder))
        assert not (Path(folder) / "big.bin").exists()


def test_a_slow_line_holds_both_directions_to_its_rate(s3_server: S3Server, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(MIB))
    s3_server.faults.bytes_per_s = 2 * MIB
    store = store_at("s3://bucket")
    began = time.monotonic()
    store.replace("step", {"a": tmp_path / "a"}, json.dumps({}).encode())
    up = time.monotonic()
    threads = [threading.Thread(target=store.read, args=("step/a",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert up - began >= 0.5
    assert time.monotonic() - up >= 1.0


def test_from_the_nth_request_on_a_store_can_refuse(s3_server: S3Server) -> None:
    store = store_at("s3://bucket")
    s3_server.faults.plan(method="PUT", after=2, times=FOREVER, status=403, code="AccessDenied")
    store.put("a", b"1")
    store.put("a", b"2")
    for _ in range(3):
        with pytest.raises(AccessDenied):
            store.put("a", b"3")
    s3_server.faults.clear()
    store.put("a", b"4")
