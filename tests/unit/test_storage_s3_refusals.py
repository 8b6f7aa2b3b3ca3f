"""What an object store will not do, and what the job makes of that."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from job.errors import (
    AccessDenied,
    BadSpec,
    NetworkExhausted,
    NotFound,
    UnsuitableHost,
)
from job.storage import Store, StoredFile, s3_client
from tests.servers.s3_server import S3Server
from tests.unit.stores import store_at

ACTIONS: dict[str, Callable[[Store, Path], object]] = {
    "snapshot": lambda store, path: store.snapshot(),
    "read": lambda store, path: store.read("a"),
    "fetch": lambda store, path: store.fetch([StoredFile("a", 1, "e")], path.parent / "out"),
    "probe_write": lambda store, path: store.probe_write(),
    "create": lambda store, path: store.create("a", b""),
    "put": lambda store, path: store.put("a", b""),
    "publish": lambda store, path: store.publish({"a": path}, b"{}"),
    "replace": lambda store, path: store.replace("a", {"b": path}, b"{}"),
    "delete": lambda store, path: store.delete("a"),
}
READS, WRITES = ("snapshot", "read", "fetch"), ("probe_write", "create", "put", "publish", "replace", "delete")


def test_an_empty_prefix_is_not_found(s3_server: S3Server) -> None:
    with pytest.raises(NotFound, match="s3://bucket/nothing/here"):
        store_at("s3://bucket/nothing/here").snapshot()


def test_a_missing_key_is_not_found(s3_server: S3Server, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="s3://bucket/a "):
        store_at("s3://bucket").read("a")
    with pytest.raises(NotFound, match="s3://bucket/a "):
        store_at("s3://bucket").fetch([StoredFile("a", 1, "e")], tmp_path)


@pytest.mark.parametrize("action", READS)
def test_a_missing_bucket_is_not_found_for_an_input(s3_server: S3Server, small: Path, action: str) -> None:
    with pytest.raises(NotFound, match="s3://no-such-bucket"):
        ACTIONS[action](store_at("s3://no-such-bucket/x"), small)


@pytest.mark.parametrize("action", WRITES)
def test_a_missing_bucket_is_access_denied_for_an_output(s3_server: S3Server, small: Path, action: str) -> None:
    with pytest.raises(AccessDenied, match=r"s3://no-such-bucket.*no such bucket"):
        ACTIONS[action](store_at("s3://no-such-bucket/x"), small)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_403_is_never_reported_as_not_found(s3_server: S3Server, small: Path, action: str) -> None:
    s3_server.faults.plan(times=99, status=403, code="AccessDenied")
    with pytest.raises(AccessDenied, match="s3://bucket/x"):
        ACTIONS[action](store_at("s3://bucket/x"), small)


def test_a_403_on_a_key_says_that_it_may_be_missing(s3_server: S3Server) -> None:
    s3_server.faults.plan(times=9, status=403, code="AccessDenied")
    with pytest.raises(AccessDenied, match="missing or forbidden") as refusal:
        store_at("s3://bucket").read("typo.json")
    assert "s3:ListBucket" in str(refusal.value)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    ("variable", "value", "code"),
    [
        ("AWS_ACCESS_KEY_ID", "SOMEONE", "InvalidAccessKeyId"),
        ("AWS_SECRET_ACCESS_KEY", "wrong-secret", "SignatureDoesNotMatch"),
    ],
)
def test_wrong_keys_are_access_denied_and_not_repeated(
    s3_server: S3Server, small: Path, monkeypatch: pytest.MonkeyPatch, action: str, variable: str, value: str, code: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(AccessDenied) as refusal:
        ACTIONS[action](store_at("s3://bucket/x"), small)
    assert value not in str(refusal.value)


@pytest.mark.parametrize("action", ["snapshot", "put"])
def test_expired_and_missing_credentials_are_access_denied(
    s3_server: S3Server, small: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    s3_server.faults.plan(times=9, status=400, code="ExpiredToken")
    with pytest.raises(AccessDenied, match="ExpiredToken"):
        ACTIONS[action](store_at("s3://bucket/x"), small)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    s3_client.client.cache_clear()
    with pytest.raises(AccessDenied, match="no usable credentials"):
        ACTIONS[action](store_at("s3://bucket/x"), small)


def test_a_wrong_clock_is_the_hosts_fault(s3_server: S3Server) -> None:
    s3_server.faults.plan(times=9, status=403, code="RequestTimeTooSkewed")
    with pytest.raises(UnsuitableHost, match="clock"):
        store_at("s3://bucket").read("a")


@pytest.mark.parametrize("action", ACTIONS)
def test_no_network_fails_within_seconds_as_a_network_error(
    s3_server: S3Server, small: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(NetworkExhausted, match="s3://bucket/x"):
        ACTIONS[action](store_at("s3://bucket/x"), small)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("fault", ["status", "reset"])
@pytest.mark.parametrize("action", ["read", "put"])
def test_a_store_that_keeps_failing_is_a_network_error(
    s3_server: S3Server, small: Path, action: str, fault: str
) -> None:
    s3_server.faults.plan(fault, times=99)
    with pytest.raises(NetworkExhausted, match="s3://bucket/x/a"):
        ACTIONS[action](store_at("s3://bucket/x"), small)


def test_an_endpoint_that_is_no_url_is_a_wrong_setting(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio:9000")
    with pytest.raises(BadSpec, match="AWS_ENDPOINT_URL"):
        store_at("s3://bucket").snapshot()


def test_a_missing_local_file_is_named(s3_server: S3Server, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        store_at("s3://bucket").publish({"a": tmp_path / "nowhere"}, b"{}")
