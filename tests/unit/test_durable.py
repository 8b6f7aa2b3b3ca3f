"""Which checkpoints of an output are trusted, and which stay in it."""

import hashlib
import json
from pathlib import Path

import pytest

from job.checkpoints import superfluous
from job.durable import fetch_newest, find_durable, suitable
from job.errors import AccessDenied
from job.records import Layout
from job.storage import open_store
from job.uri import parse_uri
from tests.unit.test_checkpoints import plan


def layout(step: int, eval_loss: float | None = None, strategy: str = "single") -> Layout:
    return Layout(
        step=step, strategy=strategy, num_processes=1, precision="bf16", adapter_dtype="fp32", quantization="none",
        eval_loss=eval_loss, save_s=0.1,
    )  # fmt: skip


def write(output: Path, step: int, fingerprint: str = "ours", strategy: str = "single") -> Path:
    folder = output / "checkpoints" / f"step-{step:08d}"
    (folder / "sub").mkdir(parents=True)
    listing = {}
    for name in ("adapter_model.safetensors", "sub/optimizer.pt"):
        data = f"{name} of step {step}".encode()
        (folder / name).write_bytes(data)
        listing[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest = {"fingerprint": fingerprint, "layout": layout(step, None, strategy).model_dump(), "files": listing}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def found(output: Path, said: list[str]) -> list[int]:
    store = open_store(parse_uri(str(output), "output"))
    return [durable.step for durable in find_durable(store, "ours", said.append)]


def fetched(output: Path, work: Path, said: list[str]) -> list[int]:
    store = open_store(parse_uri(str(output), "output"))
    usable = fetch_newest(store, find_durable(store, "ours", said.append), work, said.append, -1)
    assert [path.name for path in work.iterdir()] == [f"checkpoint-{one.step}" for one in usable[:1]]
    return [one.step for one in usable]


def test_the_newest_comes_back_as_the_trainer_names_it(tmp_path):
    write(tmp_path / "out", 5)
    write(tmp_path / "out", 20)
    said: list[str] = []

    assert fetched(tmp_path / "out", tmp_path / "work", said) == [20, 5]
    assert (tmp_path / "work" / "checkpoint-20" / "sub" / "optimizer.pt").read_text() == "sub/optimizer.pt of step 20"
    assert said == []


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def half_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes()[:40])


def other_json(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"files": [1, 2]}')


def truncated(folder: Path) -> None:
    path = folder / "sub" / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:-1])


def lost_file(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def flipped_bit(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)


def of_another_step(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["layout"]["step"] = 19
    (folder / "manifest.json").write_text(json.dumps(manifest))


def foreign(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"fingerprint": "theirs"}))


DAMAGE = [no_manifest, half_manifest, other_json, truncated, lost_file, flipped_bit, of_another_step, foreign]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_checkpoint_that_its_manifest_does_not_vouch_for_is_passed_over_out_loud(tmp_path, damage):
    write(tmp_path / "out", 10)
    damage(write(tmp_path / "out", 20))
    said: list[str] = []

    assert fetched(tmp_path / "out", tmp_path / "work", said) == [10]
    assert len(said) == 1
    assert "the checkpoint of step 20 is passed over: " in said[0]


def test_what_a_manifest_does_not_name_is_not_fetched(tmp_path):
    (write(tmp_path / "out", 20) / "training_args.bin").write_bytes(b"a pickle that somebody has put there")

    assert fetched(tmp_path / "out", tmp_path / "work", []) == [20]
    assert not [*(tmp_path / "work").rglob("training_args.bin")]
    assert [*(tmp_path / "work").rglob("optimizer.pt")]


def test_none_is_found_where_there_is_none(tmp_path):
    (tmp_path / "run.json").touch()

    assert found(tmp_path, []) == []


def test_a_store_that_forbids_reading_is_not_taken_for_an_empty_one(s3_server):
    s3_server.put("bucket", "out/checkpoints/step-00000010/manifest.json", b"{}")
    store = open_store(parse_uri("s3://bucket/out", "output"))
    s3_server.faults.plan("status", status=403, code="AccessDenied", method="GET", path="manifest.json", times=99)

    with pytest.raises(AccessDenied):
        find_durable(store, "ours", print)


def test_what_another_strategy_wrote_is_passed_over_out_loud(tmp_path):
    write(tmp_path, 10)
    write(tmp_path, 20, strategy="fsdp")
    store = open_store(parse_uri(str(tmp_path), "output"))
    said: list[str] = []

    left = suitable(find_durable(store, "ours", print), plan("single"), said.append)

    assert [durable.step for durable in left] == [10]
    assert "step 20 is passed over: it was made by fsdp" in said[0]


def test_the_newest_stay_and_the_best():
    kept = [layout(10, 2.0), layout(20, 1.0), layout(30, 1.5), layout(40), layout(50, 3.0), layout(60)]

    assert superfluous(kept, 2) == [40, 30, 10]
    assert superfluous(kept, 9) == []
    assert superfluous([layout(1), layout(2), layout(3)], 1) == [2, 1]
    assert superfluous([layout(1, 1.0), layout(2, 1.0)], 1) == [1]  # of two equal ones the later
