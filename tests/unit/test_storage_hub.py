"""A repository on the Hub, spoken to over the wire."""

import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from job.errors import AccessDenied, BadData, NotFound, OutputTaken, UploadIncomplete
from job.storage import StoredFile, open_store
from job.uri import HubUri
from tests.servers.hub_server import WRITE_TOKEN, HubServer
from tests.unit.stores import paths, store_at

REPO = {"config.json": b'{"a": 1}', "model.safetensors": b"0123456789" * 1000, "sub/données.json": b"[]"}


# The client's own: it hands a file to httpx in a way that is going out of use.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=.*:DeprecationWarning")


def files_under(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def adapter(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(os.urandom(11 * 2**20))  # three parts in large file storage
    (folder / "adapter_config.json").write_bytes(b'{"r": 16}')
    (folder / "README.md").write_bytes(b"---\nlibrary_name: peft\n---\n")
    (folder / "empty.txt").write_bytes(b"")
    return {path.name: path for path in folder.iterdir()}


def test_a_snapshot_lists_all_files_at_a_commit(hub_server: HubServer) -> None:
    commit = hub_server.add("org/name", REPO)
    snapshot = store_at("hf://org/name").snapshot()
    assert {file.path: file.size for file in snapshot.files} == {path: len(data) for path, data in REPO.items()}
    assert snapshot.revision == commit


def test_later_reads_and_fetches_stay_at_the_commit_of_the_snapshot(hub_server: HubServer, tmp_path: Path) -> None:
    hub_server.add("org/name", REPO)
    store = store_at("hf://org/name")
    snapshot = store.snapshot()
    hub_server.repositories["org/name"].commit("main", {"config.json": b"changed!"}, "change")
    assert store.read("config.json") == REPO["config.json"]
    store.fetch(snapshot.files, tmp_path / "out")
    assert files_under(tmp_path / "out") == REPO


def test_an_asked_for_revision_is_used(hub_server: HubServer) -> None:
    commit = hub_server.add("org/name", REPO)
    hub_server.repositories["org/name"].branches["refs/pr/1"] = commit
    hub_server.repositories["org/name"].commit("main", {"other": b""}, "change")
    for revision in (commit, "refs%2Fpr%2F1"):
        store = store_at(f"hf://org/name@{revision}")
        assert store.read("config.json") == REPO["config.json"]
        assert store.snapshot().revision == commit


def test_a_folder_of_a_dataset_is_listed_relative_to_it(hub_server: HubServer, tmp_path: Path) -> None:
    hub_server.add(
        "datasets/org/name", {"data/a.parquet": b"a", "data/en/b.jsonl": b"b", "data2/c": b"c", "README.md": b""}
    )
    store = store_at("hf://datasets/org/name/data")
    snapshot = store.snapshot()
    assert paths(snapshot) == ["a.parquet", "en/b.jsonl"]
    assert store.read("a.parquet") == b"a"
    store.fetch(snapshot.files, tmp_path / "out")
    assert files_under(tmp_path / "out") == {"a.parquet": b"a", "en/b.jsonl": b"b"}


def test_a_uri_that_names_one_file_gives_that_file(hub_server: HubServer, tmp_path: Path) -> None:
    hub_server.add("datasets/org/name", {"data/train.jsonl": b"0123", "data/train.jsonl.bak": b""})
    store = store_at("hf://datasets/org/name/data/train.jsonl")
    snapshot = store.snapshot()
    assert paths(snapshot) == ["train.jsonl"]
    assert store.read("train.jsonl", 1, 2) == b"12"
    store.fetch(snapshot.files, tmp_path / "out")
    assert files_under(tmp_path / "out") == {"train.jsonl": b"0123"}


def test_more_than_a_page_of_files_is_listed_to_the_end(hub_server: HubServer) -> None:
    hub_server.add("datasets/org/name", {f"{number:04}.json": b"" for number in range(250)})
    assert len(store_at("hf://datasets/org/name").snapshot().files) == 250


def test_a_file_that_changes_gets_another_identity(hub_server: HubServer) -> None:
    for name in ("config.json", "model.safetensors"):
        seen = set()
        for data in (b"1", b"2", b"2"):
            hub_server.add("org/name", {name: data})
            seen.add(store_at("hf://org/name").snapshot().files[0].identity)
        assert len(seen) == 2


@pytest.mark.parametrize("name", ["regular.json", "large.safetensors"])
@pytest.mark.parametrize(
    ("start", "length", "data"),
    [(0, None, b"0123456789"), (3, None, b"3456789"), (3, 4, b"3456"), (8, 9, b"89"), (99, 5, b""), (0, 0, b"")],
)
def test_a_read_gives_the_bytes_asked_for(
    hub_server: HubServer, name: str, start: int, length: int | None, data: bytes
) -> None:
    hub_server.add("org/name", {name: b"0123456789"})
    assert store_at("hf://org/name").read(name, start, length) == data


def test_the_token_never_reaches_the_host_of_large_files(
    hub_server: HubServer, tmp_path: Path, adapter: dict[str, Path]
) -> None:
    hub_server.add("org/name", REPO, private=True)
    store = store_at("hf://org/name")
    store.read("model.safetensors", 0, 8)
    store.fetch(store.snapshot().files, tmp_path / "out")
    store.publish(adapter, b"{}")
    methods = {method for method, path in hub_server.requests if path.startswith("storage/")}
    assert methods == {"GET", "PUT"}
    assert hub_server.leaked == []


def test_fetch_brings_all_files_and_leaves_nothing_else(hub_server: HubServer, tmp_path: Path) -> None:
    hub_server.add("org/name", REPO)
    store = store_at("hf://org/name")
    store.fetch(store.snapshot().files, tmp_path / "out")
    assert files_under(tmp_path / "out") == REPO


def test_a_second_fetch_downloads_only_what_is_not_there_as_listed(hub_server: HubServer, tmp_path: Path) -> None:
    hub_server.add("org/name", REPO)
    store = store_at("hf://org/name")
    files = store.snapshot().files
    store.fetch(files, tmp_path)
    (tmp_path / "config.json").write_bytes(b"tampered")  # of the same length
    hub_server.requests.clear()
    store.fetch(files, tmp_path)
    assert (tmp_path / "config.json").read_bytes() == REPO["config.json"]
    assert not any("model.safetensors" in path for _, path in hub_server.requests)


def test_a_download_that_is_cut_off_is_taken_up_again(hub_server: HubServer, tmp_path: Path) -> None:
    hub_server.add("org/name", REPO)
    store = store_at("hf://org/name")
    hub_server.faults.plan("truncated", method="GET", path="^storage/")
    store.fetch(store.snapshot().files, tmp_path / "out")
    assert files_under(tmp_path / "out") == REPO


def test_a_name_that_leads_out_of_the_folder_is_never_fetched(hub_server: HubServer, tmp_path: Path) -> None:
    hub_server.add("org/name", REPO)
    with pytest.raises(BadData, match="evil"):
        store_at("hf://org/name").fetch([StoredFile("../evil", 1, "")], tmp_path / "out")


def test_the_write_probe_leaves_no_commit_and_no_branch(hub_server: HubServer) -> None:
    hub_server.add("org/name", REPO)
    repository = hub_server.repositories["org/name"]
    before = dict(repository.branches)
    assert store_at("hf://org/name").probe_write() is True
    assert repository.branches == before
    assert len(repository.commits) == 1
    assert "POST" in [method for method, path in hub_server.requests if "/branch/" in path]


def test_the_write_probe_makes_a_missing_repository_private(hub_server: HubServer) -> None:
    store = store_at("hf://org/new")
    assert store.probe_write() is True
    assert hub_server.repositories["org/new"].private
    assert paths(store.snapshot()) == [".gitattributes"]


def test_create_makes_a_file_once(hub_server: HubServer) -> None:
    hub_server.add("org/name", {})
    store = store_at("hf://org/name")
    assert [store.create("claim.json", b"1"), store.create("claim.json", b"2")] == [True, False]
    assert hub_server.files("org/name") == {"claim.json": b"1"}


@pytest.mark.parametrize("data", ["own {}", "equal"])
def test_of_ten_creators_at_once_exactly_one_wins_with_own_and_with_equal_bytes(
    hub_server: HubServer, data: str
) -> None:
    hub_server.add("org/name", {})
    start = threading.Barrier(10)

    def create(number: int) -> bool:
        store = store_at("hf://org/name", branch="graft-run")
        start.wait()
        return store.create("attempts/0001/claim.json", data.format(number).encode())

    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(create, range(10))).count(True) == 1


@pytest.mark.parametrize("fault", ["status", "reset", "lost"])
def test_a_commit_that_gets_no_good_answer_is_made_exactly_once(hub_server: HubServer, fault: str) -> None:
    hub_server.add("org/name", {})
    hub_server.faults.plan(fault, method="POST", path="/commit/", times=1)
    assert store_at("hf://org/name").create("claim.json", b"1") is True
    assert len(hub_server.repositories["org/name"].commits) == 2


def test_put_replaces_what_is_there_and_outlasts_a_busy_hub(hub_server: HubServer) -> None:
    hub_server.add("org/name", {})
    store = store_at("hf://org/name")
    hub_server.faults.plan(method="POST", path="/commit/", times=2)
    hub_server.faults.plan(method="POST", path="/commit/", times=2, status=412)
    store.put("status.json", b"1")
    store.put("status.json", b"22")
    assert hub_server.files("org/name") == {"status.json": b"22"}


def test_a_branch_is_made_when_it_is_first_written_and_main_stays_as_it_is(hub_server: HubServer) -> None:
    hub_server.add("org/name", {".gitattributes": b""})
    store, reader = (store_at("hf://org/name", branch="graft-run") for _ in range(2))
    with pytest.raises(NotFound, match="revision"):
        reader.snapshot()
    store.put("run.json", b"{}")
    assert paths(reader.snapshot()) == [".gitattributes", "run.json"]
    store.put("attempts/0001/heartbeat.json", b"1")
    assert reader.read("attempts/0001/heartbeat.json") == b"1"
    store.put("attempts/0001/heartbeat.json", b"2")
    assert reader.read("attempts/0001/heartbeat.json") == b"2"
    assert list(hub_server.files("org/name")) == [".gitattributes"]


def test_publish_is_one_commit_with_the_manifest_in_it(hub_server: HubServer, adapter: dict[str, Path]) -> None:
    hub_server.add("org/name", {".gitattributes": b""})
    store_at("hf://org/name").publish(adapter, b"{}")
    assert len(hub_server.repositories["org/name"].commits) == 2
    expected = {name: path.read_bytes() for name, path in adapter.items()}
    assert hub_server.files("org/name") == {".gitattributes": b"", "manifest.json": b"{}", **expected}


def test_publish_under_a_path_keeps_to_it(hub_server: HubServer, adapter: dict[str, Path]) -> None:
    hub_server.add("org/name", {})
    place = HubUri("org/name", path="checkpoints/step-00000200")
    open_store(place, branch="graft-run").publish(adapter, b"{}")
    written = hub_server.files("org/name", "graft-run")
    assert set(written) == {f"checkpoints/step-00000200/{name}" for name in (*adapter, "manifest.json")}


def test_a_published_place_is_taken_and_stays_as_it_is(hub_server: HubServer, small: Path) -> None:
    hub_server.add("org/name", {})
    store_at("hf://org/name").publish({"a.json": small}, b"first")
    with pytest.raises(OutputTaken, match=r"org/name/manifest\.json"):
        store_at("hf://org/name").publish({"b.json": small}, b"second")
    assert hub_server.files("org/name") == {"a.json": b'{"r": 16}', "manifest.json": b"first"}


@pytest.mark.parametrize("fault", ["status", "reset", "lost"])
def test_publish_outlasts_a_hub_that_is_busy_or_loses_its_answer(
    hub_server: HubServer, adapter: dict[str, Path], fault: str
) -> None:
    hub_server.add("org/name", {})
    hub_server.faults.plan(fault, method="POST", path="/commit/", times=1)
    store_at("hf://org/name").publish(adapter, b"{}")
    assert len(hub_server.repositories["org/name"].commits) == 2


def test_publish_goes_on_top_of_a_commit_that_came_between(hub_server: HubServer, small: Path) -> None:
    hub_server.add("org/name", {})

    def write_between() -> None:
        while not any("/preupload/" in path for _, path in hub_server.requests):
            time.sleep(0.005)
        hub_server.repositories["org/name"].commit("main", {"README.md": b"mine"}, "by hand")

    hub_server.faults.plan("slow", method="POST", path="/commit/", seconds=0.2)
    threading.Thread(target=write_between, daemon=True).start()
    store_at("hf://org/name").publish({"a.json": small}, b"{}")
    assert hub_server.files("org/name") == {"README.md": b"mine", "a.json": b'{"r": 16}', "manifest.json": b"{}"}


@pytest.mark.parametrize("name", ["a.json", "a.safetensors"])
def test_other_bytes_on_the_hub_are_found_by_reading_back(hub_server: HubServer, small: Path, name: str) -> None:
    hub_server.add("org/name", {})
    hub_server.faults.plan("damaged", method="POST", path="/commit/")
    with pytest.raises(UploadIncomplete, match=f"org/name/{name}"):
        store_at("hf://org/name").publish({name: small}, b"{}")


def test_an_upload_that_breaks_off_leaves_no_commit(hub_server: HubServer, adapter: dict[str, Path]) -> None:
    hub_server.add("org/name", {})
    hub_server.faults.plan(method="PUT", path="^storage/", times=99, status=403)
    with pytest.raises(AccessDenied, match="org/name"):
        store_at("hf://org/name").publish(adapter, b"{}")
    assert len(hub_server.repositories["org/name"].commits) == 1


def test_nothing_the_client_says_reaches_the_console(
    hub_server: HubServer, tmp_path: Path, adapter: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    hub_server.add("org/name", REPO)
    hub_server.faults.plan(method="PUT", path="^storage/", times=2)
    store = store_at("hf://org/name")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        store.fetch(store.snapshot().files, tmp_path / "out")
        store.publish(adapter, b"{}")
    assert capfd.readouterr() == ("", "")
    assert [warning.message for warning in caught if warning.category is not DeprecationWarning] == []
    assert WRITE_TOKEN not in str(hub_server.requests)
