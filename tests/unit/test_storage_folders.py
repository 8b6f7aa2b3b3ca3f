"""Folders of a store that are replaced and deleted: the same promises for every store."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from job.errors import AccessDenied, NotFound, UploadIncomplete
from job.storage import Store, StoredFile, local, open_store
from job.uri import parse_uri
from tests.servers.hub_server import HubServer
from tests.servers.s3_server import S3Server

# The Hub's client hands a file to httpx in a way that is going out of use.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=.*:DeprecationWarning")

FOLDER = "checkpoints/step-00000001"
NEIGHBOUR = "checkpoints/step-000000012/a"


@dataclass
class Place:
    """A store, and what it holds by the word of its backend."""

    store: Store
    contents: Callable[[], dict[str, bytes]]

    def below(self, folder: str) -> dict[str, bytes]:
        start = f"{folder}/"
        return {path[len(start) :]: data for path, data in self.contents().items() if path.startswith(start)}


@pytest.fixture(params=["file", "s3", "hf"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    match request.param:
        case "file":
            root = tmp_path / "store"
            return Place(open_at(str(root)), lambda: files_under(root))
        case "s3":
            server: S3Server = request.getfixturevalue("s3_server")
            return Place(open_at("s3://bucket/run"), lambda: s3_files(server))
        case _:
            hub: HubServer = request.getfixturevalue("hub_server")
            hub.add("org/name", {})
            return Place(open_at("hf://org/name", "graft-run"), lambda: hub.files("org/name", "graft-run"))


def open_at(uri: str, branch: str | None = None) -> Store:
    return open_store(parse_uri(uri, "output"), branch=branch)


def files_under(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def s3_files(server: S3Server) -> dict[str, bytes]:
    return {key.removeprefix("run/"): data for key, data in server.keys("bucket").items()}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A checkpoint: a large file, a small one, one in a folder of its own."""
    contents = {"optimizer.pt": os.urandom(6 * 2**20), "layout.json": b"{}", "rng/rank0.json": b"[0]"}
    for name, data in contents.items():
        (tmp_path / "step" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "step" / name).write_bytes(data)
    return {name: tmp_path / "step" / name for name in contents}


def bytes_of(files: dict[str, Path], manifest: bytes) -> dict[str, bytes]:
    return {**{name: path.read_bytes() for name, path in files.items()}, "manifest.json": manifest}


def test_replace_makes_a_folder_where_there_was_none(place: Place, files: dict[str, Path]) -> None:
    place.store.replace(FOLDER, files, b"first")
    assert place.below(FOLDER) == bytes_of(files, b"first")


def test_replace_leaves_nothing_of_what_was_there(place: Place, files: dict[str, Path]) -> None:
    for path in (f"{FOLDER}/stale.bin", f"{FOLDER}/layout.json", f"{FOLDER}/manifest.json", NEIGHBOUR):
        place.store.put(path, b"old")
    place.store.replace(FOLDER, files, b"second")
    assert place.below(FOLDER) == bytes_of(files, b"second")
    assert place.contents()[NEIGHBOUR] == b"old"


def test_replacing_a_folder_by_the_same_again_changes_nothing(place: Place, files: dict[str, Path]) -> None:
    place.store.replace(FOLDER, files, b"{}")
    place.store.replace(FOLDER, files, b"{}")
    assert place.below(FOLDER) == bytes_of(files, b"{}")


def test_what_was_replaced_reads_back_and_can_be_fetched(place: Place, files: dict[str, Path], tmp_path: Path) -> None:
    place.store.put(f"{FOLDER}/manifest.json", b"old")
    place.store.replace(FOLDER, files, b"new")
    assert place.store.read(f"{FOLDER}/manifest.json") == b"new"
    listed = [file for file in place.store.snapshot().files if file.path.startswith(f"{FOLDER}/")]
    place.store.fetch(listed, tmp_path / "out")
    assert files_under(tmp_path / "out" / FOLDER) == bytes_of(files, b"new")


def test_a_local_file_that_is_missing_leaves_no_manifest(place: Place, files: dict[str, Path]) -> None:
    place.store.put(f"{FOLDER}/manifest.json", b"old")
    files["rng/rank0.json"].unlink()
    with pytest.raises(Exception, match=r"rank0\.json"):
        place.store.replace(FOLDER, files, b"new")
    assert place.below(FOLDER).get("manifest.json") != b"new"


def test_delete_removes_a_folder_and_not_its_neighbour(place: Place, files: dict[str, Path]) -> None:
    place.store.replace(FOLDER, files, b"{}")
    place.store.put(NEIGHBOUR, b"stays")
    place.store.delete(FOLDER)
    assert place.contents() == {NEIGHBOUR: b"stays"}
    with pytest.raises(NotFound):
        place.store.read(f"{FOLDER}/manifest.json")


def test_deleting_what_is_not_there_is_no_error(place: Place) -> None:
    place.store.put(NEIGHBOUR, b"stays")
    place.store.delete(FOLDER)
    place.store.delete("checkpoints/step-0000000")
    assert place.contents() == {NEIGHBOUR: b"stays"}


def test_a_folder_that_was_deleted_can_be_made_again(place: Place, files: dict[str, Path]) -> None:
    for manifest in (b"1", b"2"):
        place.store.replace(FOLDER, files, manifest)
        assert place.below(FOLDER) == bytes_of(files, manifest)
        place.store.delete(FOLDER)


def order_at(server: S3Server) -> list[tuple[str, str]]:
    return [(request.method, request.path.rpartition("/")[2]) for request in server.requests]


def test_on_s3_the_old_manifest_goes_first_and_the_new_one_comes_last(
    s3_server: S3Server, files: dict[str, Path]
) -> None:
    store = open_at("s3://bucket/run")
    store.replace(FOLDER, files, b"1")
    s3_server.requests.clear()
    store.replace(FOLDER, files, b"2")
    order = order_at(s3_server)
    assert order[1] == ("DELETE", "manifest.json")
    assert order[-1] == ("PUT", "manifest.json")
    assert {("HEAD", name.rpartition("/")[2]) for name in files} <= set(order)
    s3_server.requests.clear()
    store.delete(FOLDER)
    assert next(name for method, name in order_at(s3_server) if method == "DELETE") == "manifest.json"


def test_on_s3_a_first_push_needs_no_right_to_delete(s3_server: S3Server, files: dict[str, Path]) -> None:
    s3_server.faults.plan(method="DELETE", times=99, status=403, code="AccessDenied")
    open_at("s3://bucket/run").replace(FOLDER, files, b"{}")
    assert s3_files(s3_server)[f"{FOLDER}/manifest.json"] == b"{}"


@pytest.mark.parametrize("action", ["delete", "replace"])
def test_on_s3_a_refused_delete_is_access_denied_and_names_the_right(
    s3_server: S3Server, files: dict[str, Path], action: str
) -> None:
    store = open_at("s3://bucket/run")
    store.replace(FOLDER, files, b"old")
    s3_server.faults.plan(method="DELETE", times=99, status=403, code="AccessDenied")
    with pytest.raises(AccessDenied, match=r"step-00000001/manifest\.json.*s3:DeleteObject"):
        store.delete(FOLDER) if action == "delete" else store.replace(FOLDER, files, b"new")
    assert s3_files(s3_server)[f"{FOLDER}/manifest.json"] == b"old"


@pytest.mark.parametrize("reports", [True, False])
@pytest.mark.parametrize("name", ["optimizer.pt", "layout.json"])
def test_on_s3_other_bytes_are_found_by_reading_back_with_and_without_checksums(
    s3_server: S3Server, files: dict[str, Path], name: str, reports: bool
) -> None:
    s3_server.reports_checksums = reports
    s3_server.faults.plan("damaged", method="PUT", path=f"/{name}$")
    with pytest.raises(UploadIncomplete, match=f"{FOLDER}/{name}"):
        open_at("s3://bucket/run").replace(FOLDER, files, b"{}")
    assert f"{FOLDER}/manifest.json" not in s3_files(s3_server)


@pytest.mark.parametrize("name", ["layout.json", "optimizer.pt"])
def test_on_the_hub_other_bytes_are_found_by_reading_back(
    hub_server: HubServer, files: dict[str, Path], name: str
) -> None:
    hub_server.add("org/name", {})
    hub_server.faults.plan("damaged", method="POST", path="/commit/")
    with pytest.raises(UploadIncomplete, match=f"{FOLDER}/{name}"):
        open_at("hf://org/name").replace(FOLDER, {name: files[name]}, b"{}")


def test_on_a_disk_other_bytes_are_found_by_reading_back(
    tmp_path: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_at(str(tmp_path / "store"))
    store.replace(FOLDER, files, b"old")
    monkeypatch.setattr(local.shutil, "copyfile", lambda source, target: Path(target).write_bytes(b"other"))
    with pytest.raises(UploadIncomplete, match="read back other bytes"):
        store.replace(FOLDER, files, b"new")
    assert "manifest.json" not in files_under(tmp_path / "store" / FOLDER)


def test_on_a_disk_the_manifest_goes_first(
    tmp_path: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    store = open_at(str(tmp_path / "store"))
    store.replace(FOLDER, files, b"{}")
    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(AccessDenied, match=FOLDER):
        store.delete(FOLDER)
    assert set(files_under(tmp_path / "store" / FOLDER)) == set(files)


def test_on_the_hub_a_replacement_and_a_deletion_are_one_commit_each(
    hub_server: HubServer, files: dict[str, Path]
) -> None:
    hub_server.add("org/name", {f"{FOLDER}/stale.bin": b"", "README.md": b"mine"})
    commits = hub_server.repositories["org/name"].commits
    store = open_at("hf://org/name")
    store.replace(FOLDER, files, b"{}")
    assert len(commits) == 2
    store.delete(FOLDER)
    store.delete(FOLDER)
    assert len(commits) == 3
    assert hub_server.files("org/name") == {"README.md": b"mine"}


@pytest.mark.parametrize("fault", ["status", "reset", "lost"])
@pytest.mark.parametrize("action", ["delete", "replace"])
def test_on_the_hub_a_commit_that_gets_no_good_answer_is_made_exactly_once(
    hub_server: HubServer, files: dict[str, Path], action: str, fault: str
) -> None:
    hub_server.add("org/name", {f"{FOLDER}/stale.bin": b"", f"{FOLDER}/manifest.json": b"old"})
    hub_server.faults.plan(fault, method="POST", path="/commit/")
    store = open_at("hf://org/name")
    store.delete(FOLDER) if action == "delete" else store.replace(FOLDER, files, b"new")
    assert len(hub_server.repositories["org/name"].commits) == 2
    expected = {} if action == "delete" else bytes_of(files, b"new")
    assert hub_server.files("org/name") == {f"{FOLDER}/{name}": data for name, data in expected.items()}


def test_files_listed_before_a_deletion_are_not_found_afterwards(place: Place, tmp_path: Path) -> None:
    place.store.put(f"{FOLDER}/a", b"1")
    place.store.put(NEIGHBOUR, b"2")
    place.store.delete(FOLDER)
    place.store.snapshot()
    with pytest.raises(NotFound, match=f"{FOLDER}/a"):
        place.store.fetch([StoredFile(f"{FOLDER}/a", 1, "e")], tmp_path / "out")
