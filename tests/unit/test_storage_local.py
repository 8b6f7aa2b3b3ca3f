"""A folder as a store."""

import errno
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from job.errors import AccessDenied, BadData, NotFound, OutputTaken, UnsuitableHost, UploadIncomplete
from job.inputs import find_dataset
from job.storage import Store, StoredFile, local, open_store, transfer
from job.uri import FileUri


def store_at(path: Path) -> Store:
    return open_store(FileUri(path))


def files_under(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"0123456789")
    (folder / "sub" / "données b.bin").write_bytes(b"\0\1")
    (folder / "empty").write_bytes(b"")
    return folder


def test_a_folder_is_opened_without_any_cloud_sdk(tmp_path: Path) -> None:
    code = f"""
        import sys
        from job.storage import open_store
        from job.uri import parse_uri
        open_store(parse_uri({str(tmp_path)!r}, "output")).put("a", b"")
        print(*{{"boto3", "botocore", "huggingface_hub"}} & set(sys.modules))
    """
    assert subprocess.check_output([sys.executable, "-c", textwrap.dedent(code)], text=True) == "\n"


@pytest.mark.parametrize(("uri", "other"), [("s3://bucket", "huggingface_hub"), ("hf://org/name", "boto3")])
def test_opening_a_store_imports_its_own_sdk_only_and_asks_nobody(uri: str, other: str) -> None:
    code = f"""
        import socket, sys
        from job.storage import open_store
        from job.uri import parse_uri
        socket.socket.connect = None
        open_store(parse_uri({uri!r}, "output"))
        print(*{{{other!r}, "torch", "transformers", "datasets"}} & set(sys.modules))
    """
    assert subprocess.check_output([sys.executable, "-c", textwrap.dedent(code)], text=True) == "\n"


def test_a_snapshot_lists_all_files_with_relative_paths_and_sizes(folder: Path) -> None:
    snapshot = store_at(folder).snapshot()
    assert [(file.path, file.size) for file in snapshot.files] == [
        ("a.txt", 10),
        ("empty", 0),
        ("sub/données b.bin", 2),
    ]
    assert snapshot.revision is None


def test_a_file_that_changes_gets_another_identity(folder: Path) -> None:
    before = store_at(folder).snapshot().files[0]
    os.utime(folder / "a.txt", ns=(1, 1))
    assert store_at(folder).snapshot().files[0].identity != before.identity


def test_a_uri_that_names_one_file_gives_that_file(folder: Path, tmp_path: Path) -> None:
    store = store_at(folder / "a.txt")
    (file,) = store.snapshot().files
    assert (file.path, store.read("a.txt", 2, 3)) == ("a.txt", b"234")
    store.fetch([file], tmp_path / "out")
    assert files_under(tmp_path / "out") == {"a.txt": b"0123456789"}
    with pytest.raises(NotFound):
        store.read("b.txt")


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_nothing_there_is_not_found(tmp_path: Path, make) -> None:
    make(tmp_path / "x")
    with pytest.raises(NotFound, match="x"):
        store_at(tmp_path / "x").snapshot()


def test_a_path_under_a_file_is_not_found_and_cannot_be_written(folder: Path) -> None:
    store = store_at(folder / "a.txt" / "below")
    with pytest.raises(NotFound):
        store.snapshot()
    with pytest.raises(NotFound):
        store.read("x")
    for write in (store.probe_write, lambda: store.create("x", b""), lambda: store.put("x", b"")):
        with pytest.raises(AccessDenied, match=r"a\.txt"):
            write()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc to be refused by")
def test_a_place_that_even_root_cannot_write_is_access_denied() -> None:
    with pytest.raises(AccessDenied, match="/proc/graft"):
        store_at(Path("/proc/graft")).probe_write()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_access_denied_not_missing(folder: Path) -> None:
    (folder / "a.txt").chmod(0)
    with pytest.raises(AccessDenied):
        store_at(folder).read("a.txt")


def test_links_to_files_are_read_through_and_links_to_folders_are_not_entered(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "b1").write_bytes(b"weights")
    (folder / "model.safetensors").symlink_to("../blobs/b1")
    (folder / "loop").symlink_to(folder)
    (tmp_path / "link").symlink_to(folder)
    paths = [file.path for file in store_at(tmp_path / "link").snapshot().files]
    assert paths == ["a.txt", "empty", "model.safetensors", "sub/données b.bin"]
    assert store_at(folder).read("model.safetensors") == b"weights"


def test_a_dangling_link_is_no_file_and_is_named(folder: Path) -> None:
    before = store_at(folder).snapshot()
    (folder / "gone").symlink_to("nowhere")

    snapshot = store_at(folder).snapshot()

    assert (snapshot.files, snapshot.dangling) == (before.files, ("gone",))
    with pytest.raises(NotFound, match="gone is a link that leads nowhere"):
        find_dataset(str(folder))


def test_pipes_are_not_files(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert "pipe" not in [file.path for file in store_at(folder).snapshot().files]


@pytest.mark.parametrize(
    ("start", "length", "data"),
    [(0, None, b"0123456789"), (3, None, b"3456789"), (3, 4, b"3456"), (8, 9, b"89"), (99, 5, b""), (0, 0, b"")],
)
def test_a_read_gives_the_bytes_asked_for(folder: Path, start: int, length: int | None, data: bytes) -> None:
    assert store_at(folder).read("a.txt", start, length) == data


def test_fetch_copies_all_files_and_leaves_nothing_else(folder: Path, tmp_path: Path) -> None:
    store = store_at(folder)
    store.fetch(store.snapshot().files, tmp_path / "out")
    assert files_under(tmp_path / "out") == files_under(folder)


def test_a_file_cut_short_after_it_was_listed_does_not_appear(folder: Path, tmp_path: Path) -> None:
    store = store_at(folder)
    files = store.snapshot().files
    (folder / "a.txt").write_bytes(b"01234")
    with pytest.raises(Exception, match="5 bytes long instead of 10"):
        store.fetch(files, tmp_path / "out")
    assert not (tmp_path / "out/a.txt").exists()


def test_a_file_removed_after_it_was_listed_is_not_found(folder: Path, tmp_path: Path) -> None:
    store = store_at(folder)
    files = store.snapshot().files
    (folder / "a.txt").unlink()
    with pytest.raises(NotFound, match=r"a\.txt"):
        store.fetch(files, tmp_path / "out")


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil"])
def test_a_name_that_leads_out_of_the_folder_is_never_fetched(folder: Path, tmp_path: Path, path: str) -> None:
    with pytest.raises(BadData, match="evil"):
        store_at(folder).fetch([StoredFile(path, 1, "")], tmp_path / "out")


def test_a_fetch_that_cannot_fit_fails_before_the_first_byte_and_names_the_mount(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsuitableHost, match=str(transfer.mount_of(tmp_path))):
        store_at(folder).fetch([StoredFile("a.txt", 2**60, "")], tmp_path / "out")


def test_a_full_disk_is_the_hosts_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UnsuitableHost, match="No space left on"):
        store_at(folder).put("x", b"data")


def test_the_write_probe_makes_missing_folders_and_leaves_no_file(tmp_path: Path) -> None:
    assert store_at(tmp_path / "new/deep").probe_write() is True
    assert files_under(tmp_path) == {}


def test_of_ten_creators_at_once_exactly_one_wins_and_its_bytes_stay(tmp_path: Path) -> None:
    start = threading.Barrier(10)

    def create(number: int) -> bool:
        start.wait()
        return store_at(tmp_path).create("attempts/0001/claim.json", b"%d" % number * 10_000)

    with ThreadPoolExecutor(10) as pool:
        won = list(pool.map(create, range(10)))
    assert won.count(True) == 1
    assert files_under(tmp_path) == {"attempts/0001/claim.json": b"%d" % won.index(True) * 10_000}


def test_without_hard_links_the_probe_says_so_and_create_looks_before_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", unsupported)
    store = store_at(tmp_path)
    assert store.probe_write() is False
    assert store.create("x", b"first") is True
    assert store.create("x", b"second") is False
    assert files_under(tmp_path) == {"x": b"first"}


def test_put_replaces_what_is_there(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    store.put("status.json", b"1")
    store.put("status.json", b"22")
    assert files_under(tmp_path) == {"status.json": b"22"}


def test_files_half_written_by_another_process_are_not_listed(folder: Path) -> None:
    (folder / ".graft-tmp-123").write_bytes(b"half")
    assert ".graft-tmp-123" not in [file.path for file in store_at(folder).snapshot().files]


def test_publish_copies_all_files_and_the_manifest_last(folder: Path, tmp_path: Path) -> None:
    store_at(tmp_path / "out").publish({"adapter/a.txt": folder / "a.txt", "empty": folder / "empty"}, b"{}")
    out = files_under(tmp_path / "out")
    assert out == {"adapter/a.txt": b"0123456789", "empty": b"", "manifest.json": b"{}"}
    newest = max((tmp_path / "out").rglob("*"), key=lambda path: (path.is_file(), path.stat().st_mtime_ns))
    assert newest.name == "manifest.json"


def test_a_published_place_is_taken(folder: Path, tmp_path: Path) -> None:
    store_at(tmp_path / "out").publish({"a": folder / "a.txt"}, b"first")
    with pytest.raises(OutputTaken, match=r"manifest\.json"):
        store_at(tmp_path / "out").publish({"a": folder / "empty"}, b"second")
    assert files_under(tmp_path / "out") == {"a": b"0123456789", "manifest.json": b"first"}


def test_damage_on_the_way_to_the_disk_is_found_and_leaves_no_manifest(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local.shutil, "copyfile", lambda source, target: Path(target).write_bytes(b"9876543210"))
    with pytest.raises(UploadIncomplete, match="read back other bytes"):
        store_at(tmp_path / "out").publish({"a": folder / "a.txt"}, b"{}")
    assert "manifest.json" not in files_under(tmp_path / "out")


def test_a_publish_that_breaks_off_leaves_no_manifest(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AccessDenied, match="missing"):
        store_at(tmp_path / "out").publish({"a": folder / "a.txt", "b": tmp_path / "missing"}, b"{}")
    assert "manifest.json" not in files_under(tmp_path / "out")
