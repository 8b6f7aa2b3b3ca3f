"""An object store, spoken to over the wire."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from job.errors import (
    AccessDenied,
    JobError,
    NetworkExhausted,
    OutputTaken,
    UploadIncomplete,
)
from job.storage import StoredFile
from tests.servers.s3_server import S3Server
from tests.unit.stores import paths, store_at

MIB = 2**20


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big.bin"
    path.write_bytes(os.urandom(20 * MIB))
    return path


def test_a_prefix_lists_what_is_below_it_and_not_its_namesakes(s3_server: S3Server) -> None:
    for key in ("data/a", "data/sub/b", "data2/c", "data.txt", "data/"):
        s3_server.put("bucket", key, b"x")
    assert paths(store_at("s3://bucket/data").snapshot()) == ["a", "sub/b"]


def test_a_bucket_alone_is_listed_whole(s3_server: S3Server) -> None:
    s3_server.put("bucket", "a/b", b"123")
    (file,) = store_at("s3://bucket").snapshot().files
    assert (file.path, file.size) == ("a/b", 3)


def test_a_uri_that_names_one_object_gives_that_object(s3_server: S3Server, tmp_path: Path) -> None:
    s3_server.put("bucket", "data/train.jsonl", b"0123")
    s3_server.put("bucket", "data/train.jsonl.bak", b"x")
    store = store_at("s3://bucket/data/train.jsonl")
    snapshot = store.snapshot()
    assert paths(snapshot) == ["train.jsonl"]
    assert store.read("train.jsonl", 1, 2) == b"12"
    store.fetch(snapshot.files, tmp_path / "out")
    assert (tmp_path / "out/train.jsonl").read_bytes() == b"0123"


def test_one_object_can_be_read_without_the_right_to_list(s3_server: S3Server) -> None:
    s3_server.put("bucket", "train.jsonl", b"0123")
    s3_server.faults.plan(method="GET", path="/bucket$", times=9, status=403, code="AccessDenied")
    assert paths(store_at("s3://bucket/train.jsonl").snapshot()) == ["train.jsonl"]


def test_more_than_a_page_of_keys_is_listed_to_the_end(s3_server: S3Server) -> None:
    for number in range(2005):
        s3_server.put("bucket", f"rows/{number:05}.jsonl", b"")
    assert len(store_at("s3://bucket/rows").snapshot().files) == 2005
    assert sum(request.method == "GET" for request in s3_server.requests) == 3


def test_keys_in_any_script_survive_the_round_trip(s3_server: S3Server, tmp_path: Path, small: Path) -> None:
    names = ["données/été 1.json", "データ/+&=?%20.json", "emoji 🎈.json"]
    store = store_at("s3://bucket/préfixe")
    store.publish(dict.fromkeys(names, small), b"{}")
    files = store.snapshot().files
    assert {file.path for file in files} == {*names, "manifest.json"}
    store.fetch(files, tmp_path / "out")
    assert all((tmp_path / "out" / name).read_bytes() == small.read_bytes() for name in names)


def test_an_object_that_changes_gets_another_identity(s3_server: S3Server) -> None:
    seen = set()
    for data in (b"1", b"2", b"2"):
        s3_server.put("bucket", "a", data)
        seen.add(store_at("s3://bucket").snapshot().files[0].identity)
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("start", "length", "data"),
    [(0, None, b"0123456789"), (3, None, b"3456789"), (3, 4, b"3456"), (8, 9, b"89"), (99, 5, b""), (0, 0, b"")],
)
def test_a_read_gives_the_bytes_asked_for(s3_server: S3Server, start: int, length: int | None, data: bytes) -> None:
    s3_server.put("bucket", "a", b"0123456789")
    assert store_at("s3://bucket").read("a", start, length) == data


def test_reading_the_first_bytes_of_an_empty_object_gives_none(s3_server: S3Server) -> None:
    s3_server.put("bucket", "empty", b"")
    assert store_at("s3://bucket").read("empty", 0, 8) == b""


def test_twenty_megabytes_go_up_in_checked_parts_and_come_down_in_ranges(
    s3_server: S3Server, tmp_path: Path, big: Path
) -> None:
    store = store_at("s3://bucket/run")
    store.publish({"adapter/model.bin": big}, b"{}")
    parts = [request for request in s3_server.requests if "partNumber" in request.query]
    assert len(parts) == 2
    assert all("x-amz-checksum-crc64nvme" in request.headers for request in parts)
    (completion,) = (
        request for request in s3_server.requests if request.method == "POST" and "uploadId" in request.query
    )
    assert "x-amz-checksum-crc64nvme" in completion.headers
    s3_server.requests.clear()
    store.fetch(store.snapshot().files, tmp_path / "out")
    assert (tmp_path / "out/adapter/model.bin").read_bytes() == big.read_bytes()
    assert sum("range" in request.headers for request in s3_server.requests) == 2


def test_over_tls_checksums_travel_as_trailers_and_are_checked(
    s3_server: S3Server, tmp_path: Path, big: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with S3Server(tls_folder=tmp_path) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        store_at("s3://bucket/run").publish({"big": big, "small": small}, b"{}")
        assert server.keys("bucket")["run/big"] == big.read_bytes()
        assert sum("x-amz-checksum-crc64nvme" in request.trailers for request in server.requests) == 2


def test_the_write_probe_writes_reads_back_and_leaves_nothing(s3_server: S3Server) -> None:
    assert store_at("s3://bucket/run").probe_write() is True
    assert s3_server.keys("bucket") == {}
    assert {"PUT", "GET", "DELETE"} <= {request.method for request in s3_server.requests}


@pytest.mark.parametrize("conditional", ["refused", "ignored"])
def test_a_store_without_create_if_absent_is_noticed_and_looked_at_before_writing(
    s3_server: S3Server, conditional: str, small: Path
) -> None:
    s3_server.conditional = conditional
    store = store_at("s3://bucket/run")
    assert store.probe_write() is False
    assert s3_server.keys("bucket") == {}
    assert [store.create("claim", b"1"), store.create("claim", b"2")] == [True, False]
    store.publish({"a": small}, b"{}")
    with pytest.raises(OutputTaken):
        store.publish({"a": small}, b"{}")
    assert s3_server.keys("bucket")["run/claim"] == b"1"


def test_a_store_that_refuses_conditions_is_noticed_without_a_probe(s3_server: S3Server) -> None:
    s3_server.conditional = "refused"
    store = store_at("s3://bucket/run")
    assert [store.create("claim", b"1"), store.create("claim", b"2")] == [True, False]


def test_the_write_probe_passes_without_the_right_to_delete(s3_server: S3Server) -> None:
    s3_server.faults.plan(method="DELETE", times=9, status=403, code="AccessDenied")
    assert store_at("s3://bucket/run").probe_write() is True


@pytest.mark.parametrize("data", ["own {}", "equal"])
def test_of_ten_creators_at_once_exactly_one_wins_with_own_and_with_equal_bytes(s3_server: S3Server, data: str) -> None:
    start = threading.Barrier(10)

    def create(number: int) -> bool:
        store = store_at("s3://bucket/run")
        start.wait()
        return store.create("attempts/0001/claim.json", data.format(number).encode())

    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(create, range(10))).count(True) == 1


def test_a_create_whose_answer_is_lost_is_known_as_ones_own(s3_server: S3Server) -> None:
    s3_server.faults.plan("lost", method="PUT")
    assert store_at("s3://bucket").create("claim", b"1") is True
    assert [request.method for request in s3_server.requests] == ["PUT", "PUT", "HEAD"]


def test_a_create_that_races_another_is_tried_again(s3_server: S3Server) -> None:
    s3_server.faults.plan(method="PUT", times=1, status=409, code="ConditionalRequestConflict")
    assert store_at("s3://bucket").create("claim", b"1") is True


def test_put_replaces_what_is_there(s3_server: S3Server) -> None:
    store = store_at("s3://bucket")
    store.put("status.json", b"1")
    store.put("status.json", b"22")
    assert s3_server.keys("bucket") == {"status.json": b"22"}


def test_publish_reads_every_file_back_before_it_makes_the_manifest(s3_server: S3Server, small: Path) -> None:
    store_at("s3://bucket/run").publish({"adapter/a": small, "b": small}, b"{}")
    order = [(request.method, request.path.removeprefix("/bucket/run/")) for request in s3_server.requests]
    assert order[-1] == ("PUT", "manifest.json")
    assert {("HEAD", "adapter/a"), ("HEAD", "b")} <= set(order[3:-1])
    assert s3_server.keys("bucket")["run/adapter/a"] == small.read_bytes()


def test_a_published_place_is_taken_and_stays_as_it_is(s3_server: S3Server, small: Path) -> None:
    store_at("s3://bucket/run").publish({"a": small}, b"first")
    before = s3_server.keys("bucket")
    with pytest.raises(OutputTaken, match=r"s3://bucket/run/manifest\.json"):
        store_at("s3://bucket/run").publish({"a": small, "b": small}, b"second")
    assert s3_server.keys("bucket") == before


def test_a_manifest_that_appears_while_files_go_up_is_not_overwritten(s3_server: S3Server, small: Path) -> None:
    def publish_too() -> None:
        wait_for(lambda: any(request.path.endswith("/a") for request in s3_server.requests))
        s3_server.put("bucket", "run/manifest.json", b"rival")

    s3_server.faults.plan("slow", method="PUT", path="/a$", seconds=0.3)
    threading.Thread(target=publish_too, daemon=True).start()
    with pytest.raises(OutputTaken, match="another run"):
        store_at("s3://bucket/run").publish({"a": small}, b"mine")
    assert s3_server.keys("bucket")["run/manifest.json"] == b"rival"


@pytest.mark.parametrize("reports_checksums", [True, False])
@pytest.mark.parametrize("name", ["small", "big"])
def test_other_bytes_in_the_store_are_found_by_reading_back(
    s3_server: S3Server, request: pytest.FixtureRequest, name: str, reports_checksums: bool
) -> None:
    s3_server.reports_checksums = reports_checksums
    s3_server.faults.plan("damaged", method="PUT", path="/file$")
    with pytest.raises(UploadIncomplete, match=r"s3://bucket/run/file"):
        store_at("s3://bucket/run").publish({"file": request.getfixturevalue(name)}, b"{}")
    assert "run/manifest.json" not in s3_server.keys("bucket")


@pytest.mark.parametrize("name", ["small", "big"])
def test_bytes_that_are_not_those_that_were_hashed_are_refused_by_the_store(
    s3_server: S3Server, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("job.storage.s3.crc64_of_file", lambda path: "AAAAAAAAAAA=")
    with pytest.raises(UploadIncomplete, match="BadDigest"):
        store_at("s3://bucket/run").publish({"file": request.getfixturevalue(name)}, b"{}")
    assert s3_server.keys("bucket") == {}


def test_a_store_that_reports_no_checksums_is_read_back_in_full(s3_server: S3Server, small: Path) -> None:
    s3_server.reports_checksums = False
    store_at("s3://bucket").publish({"a": small}, b"{}")
    assert ("GET", "/bucket/a") in [(request.method, request.path) for request in s3_server.requests]


def test_checksums_can_be_left_out_for_stores_that_know_none(
    s3_server: S3Server, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    store_at("s3://bucket").publish({"a": small}, b"{}")
    assert not any("checksum-crc" in name for request in s3_server.requests for name in request.headers)
    assert s3_server.keys("bucket")["a"] == small.read_bytes()


def test_a_failed_part_aborts_the_upload_and_leaves_no_manifest(s3_server: S3Server, big: Path) -> None:
    s3_server.faults.plan(method="PUT", path="/big$", times=9, status=403, code="AccessDenied")
    with pytest.raises(AccessDenied, match="s3://bucket/run/big"):
        store_at("s3://bucket/run").publish({"big": big}, b"{}")
    assert s3_server.open_uploads("bucket") == 0
    assert s3_server.keys("bucket") == {}


def test_a_killed_upload_leaves_no_manifest(s3_server: S3Server, big: Path) -> None:
    s3_server.faults.plan("slow", method="PUT", path="/big$", times=9, seconds=30)
    code = """
        import sys
        from pathlib import Path
        from job.storage import open_store
        from job.uri import parse_uri
        store = open_store(parse_uri("s3://bucket/run", "output"))
        store.publish({"big": Path(sys.argv[1])}, b"{}")
    """
    publisher = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(big)])
    wait_for(lambda: any("partNumber" in request.query for request in s3_server.requests))
    publisher.send_signal(signal.SIGKILL)
    publisher.wait()
    assert not {"run/manifest.json", "run/big"} & set(s3_server.keys("bucket"))


def test_a_download_that_is_cut_off_is_taken_up_again(s3_server: S3Server, tmp_path: Path, big: Path) -> None:
    s3_server.put("bucket", "big", big.read_bytes())
    s3_server.put("bucket", "small", b"0123456789")
    store = store_at("s3://bucket")
    s3_server.faults.plan("truncated", method="GET", path="/(big|small)$", times=2)
    store.fetch(store.snapshot().files, tmp_path / "out")
    assert (tmp_path / "out/big").read_bytes() == big.read_bytes()
    s3_server.faults.plan("truncated", method="GET", path="/small$", times=2)
    assert store.read("small") == b"0123456789"


def test_a_download_that_is_always_cut_off_fails_and_leaves_no_file(s3_server: S3Server, tmp_path: Path) -> None:
    s3_server.put("bucket", "small", b"0123456789")
    s3_server.faults.plan("truncated", method="GET", path="/small$", times=99)
    store = store_at("s3://bucket")
    with pytest.raises(NetworkExhausted, match="s3://bucket/small"):
        store.fetch(store.snapshot().files, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_object_replaced_after_it_was_listed_is_not_passed_off_as_the_listed_one(
    s3_server: S3Server, tmp_path: Path, big: Path
) -> None:
    s3_server.put("bucket", "big", big.read_bytes())
    store = store_at("s3://bucket")
    files = store.snapshot().files
    s3_server.put("bucket", "big", big.read_bytes()[::-1])
    with pytest.raises(NetworkExhausted, match="s3://bucket/big"):
        store.fetch(files, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_files_that_a_manifest_names_are_fetched_without_a_listing(
    s3_server: S3Server, tmp_path: Path, big: Path
) -> None:
    s3_server.put("bucket", "big", big.read_bytes())
    store_at("s3://bucket").fetch([StoredFile("big", 20 * MIB, "the-manifest-s-sha256")], tmp_path / "out")
    assert (tmp_path / "out/big").read_bytes() == big.read_bytes()


def test_a_key_that_leads_out_of_the_folder_is_never_fetched(s3_server: S3Server, tmp_path: Path) -> None:
    s3_server.put("bucket", "data/../../evil", b"x")
    store = store_at("s3://bucket/data")
    with pytest.raises(JobError, match="leads out of its folder"):
        store.fetch(store.snapshot().files, tmp_path / "out/deep")
    assert not list(tmp_path.rglob("evil"))


def test_a_passing_503_is_not_noticed(s3_server: S3Server, small: Path) -> None:
    s3_server.faults.plan(times=1)
    store_at("s3://bucket").publish({"a": small}, b"{}")

    assert s3_server.keys("bucket") == {"a": small.read_bytes(), "manifest.json": b"{}"}
