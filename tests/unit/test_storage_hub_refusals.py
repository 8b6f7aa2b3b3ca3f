"""What the Hub will not do, and what the job makes of that."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from job.errors import AccessDenied, NetworkExhausted, NotFound
from job.storage import Store, StoredFile, hub_repo, patience
from tests.conftest import point_hub_at
from tests.servers.hub_server import READ_TOKEN, HubServer
from tests.unit.stores import store_at

# The client's own: it hands a file to httpx in a way that is going out of use.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=.*:DeprecationWarning")

REPO = {"config.json": b'{"a": 1}', "sub/données.json": b"[]"}
ACTIONS: dict[str, Callable[[Store, Path], object]] = {
    "snapshot": lambda store, path: store.snapshot(),
    "read": lambda store, path: store.read("config.json"),
    "fetch": lambda store, path: store.fetch([StoredFile("config.json", 8, "e")], path.parent / "out"),
    "probe_write": lambda store, path: store.probe_write(),
    "create": lambda store, path: store.create("a", b"1"),
    "put": lambda store, path: store.put("a", b"1"),
    "publish": lambda store, path: store.publish({"a": path}, b"{}"),
    "replace": lambda store, path: store.replace("sub", {"b": path}, b"{}"),
    "delete": lambda store, path: store.delete("sub"),
}
READS, WRITES = ("snapshot", "read", "fetch"), ("probe_write", "create", "put", "publish", "replace", "delete")


@pytest.mark.parametrize("action", READS)
def test_a_missing_repository_is_not_found_with_a_token(hub_server: HubServer, small: Path, action: str) -> None:
    with pytest.raises(NotFound, match="org/missing"):
        ACTIONS[action](store_at("hf://org/missing"), small)


@pytest.mark.parametrize("name", ["org/missing", "org/private"])
@pytest.mark.parametrize("action", READS)
def test_without_a_token_missing_and_private_look_alike_and_are_access_denied(
    hub_server: HubServer, small: Path, monkeypatch: pytest.MonkeyPatch, action: str, name: str
) -> None:
    hub_server.add("org/private", REPO, private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(AccessDenied, match="HF_TOKEN"):
        ACTIONS[action](store_at(f"hf://{name}"), small)


def test_public_repositories_need_no_token(hub_server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_server.add("org/name", REPO)
    monkeypatch.delenv("HF_TOKEN")
    assert store_at("hf://org/name").read("config.json") == REPO["config.json"]


@pytest.mark.parametrize("action", READS)
def test_a_token_that_is_not_accepted_is_access_denied(
    hub_server: HubServer, small: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    hub_server.add("org/name", REPO)
    monkeypatch.setenv("HF_TOKEN", "token-of-nobody")
    with pytest.raises(AccessDenied, match="HF_TOKEN") as refusal:
        ACTIONS[action](store_at("hf://org/name"), small)
    assert "nobody" not in str(refusal.value)


@pytest.mark.parametrize("token", [READ_TOKEN, None])
@pytest.mark.parametrize("action", ["read", "fetch"])
@pytest.mark.parametrize("name", ["org/gated", "datasets/org/gated"])
def test_a_gated_repository_names_the_page_of_its_licence(
    hub_server: HubServer, small: Path, monkeypatch: pytest.MonkeyPatch, action: str, token: str | None, name: str
) -> None:
    hub_server.add(name, REPO, gated=True)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    else:
        monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(AccessDenied, match=f"{hub_server.url}/{name}"):
        ACTIONS[action](store_at(f"hf://{name}"), small)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_403_is_never_reported_as_not_found(hub_server: HubServer, small: Path, action: str) -> None:
    hub_server.add("org/name", REPO)
    hub_server.faults.plan(times=999, status=403)
    with pytest.raises(AccessDenied, match="org/name"):
        ACTIONS[action](store_at("hf://org/name"), small)


def test_a_missing_revision_path_or_file_is_not_found_by_name(hub_server: HubServer, tmp_path: Path) -> None:
    hub_server.add("org/name", REPO)
    with pytest.raises(NotFound, match="org/name@v9"):
        store_at("hf://org/name@v9").snapshot()
    with pytest.raises(NotFound, match="org/name/nowhere"):
        store_at("hf://org/name/nowhere").snapshot()
    with pytest.raises(NotFound, match=r"typo\.json"):
        store_at("hf://org/name").read("typo.json")
    with pytest.raises(NotFound, match=r"typo\.json"):
        store_at("hf://org/name").fetch([StoredFile("typo.json", 1, "")], tmp_path / "out")


@pytest.mark.parametrize("action", ACTIONS)
def test_no_network_fails_within_seconds_as_a_network_error(
    hub_server: HubServer, small: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    point_hub_at(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setattr(patience, "PATIENCE_S", 0)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client's own waits, 23 s
    began = time.monotonic()
    with pytest.raises(NetworkExhausted, match="org/name"):
        ACTIONS[action](store_at("hf://org/name"), small)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("action", ["snapshot", "read", "put"])
def test_a_hub_that_keeps_failing_is_a_network_error(
    hub_server: HubServer, small: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    hub_server.add("org/name", REPO)
    monkeypatch.setattr(patience, "PATIENCE_S", 0.1)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub_server.faults.plan(times=9999, status=503)
    with pytest.raises(NetworkExhausted, match="org/name"):
        ACTIONS[action](store_at("hf://org/name"), small)


def test_a_look_up_outlasts_a_passing_fault(hub_server: HubServer) -> None:
    hub_server.add("org/name", REPO)
    hub_server.faults.plan(times=2, status=503)
    hub_server.faults.plan("reset", times=1)
    assert store_at("hf://org/name").snapshot().files


@pytest.mark.parametrize("action", [name for name in ACTIONS if name != "fetch"])
def test_a_hub_that_stops_answering_is_not_waited_for_for_ever(
    hub_server: HubServer, small: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    hub_server.add("org/name", REPO)
    monkeypatch.setattr(hub_repo, "TIMEOUT_S", 0.1)
    monkeypatch.setattr(patience, "PATIENCE_S", 0)
    monkeypatch.setattr("time.sleep", lambda seconds: threading.Event().wait(min(seconds, 3)))
    path = {"snapshot": "/tree/", "read": "/resolve/", "probe_write": "/branch/"}.get(action, "/commit/")
    hub_server.faults.plan("slow", path=path, times=9, seconds=3)
    with pytest.raises(NetworkExhausted, match="ReadTimeout"):
        ACTIONS[action](store_at("hf://org/name"), small)


def test_offline_mode_fails_at_once(hub_server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 60.0)
    monkeypatch.setattr(patience, "LONGEST_WAIT_S", 60.0)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NetworkExhausted, match="OfflineModeIsEnabled"):
        store_at("hf://org/name").snapshot()


@pytest.mark.parametrize("token", [READ_TOKEN, "token-of-nobody", None])
@pytest.mark.parametrize("action", WRITES)
@pytest.mark.parametrize("name", ["org/name", "org/missing"])
def test_a_token_that_may_not_write_is_access_denied(
    hub_server: HubServer, small: Path, monkeypatch: pytest.MonkeyPatch, token: str | None, action: str, name: str
) -> None:
    hub_server.add("org/name", REPO)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    else:
        monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(AccessDenied, match=name) as refusal:
        ACTIONS[action](store_at(f"hf://{name}"), small)
    assert "token-" not in str(refusal.value)
    assert hub_server.files("org/name") == REPO
