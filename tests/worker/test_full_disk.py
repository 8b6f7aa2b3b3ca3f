"""A checkpoint that does not fit on the disk: the mount is named, and the checkpoint before it stays."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from job.checkpoints import newest_checkpoint
from job.child import read_error
from job.errors import UnsuitableHost
from job.train.checkpoint import full_disk_told
from tests.worker.strategies import make_inputs, make_run

MiB = 2**20
SMALL_KIB = 1600  # two checkpoints of the tiny model are larger, one is not


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SMALL_KIB}k", "tmpfs", str(disk)],
        stderr=subprocess.DEVNULL,
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


WRITERS: dict[str, Callable[[Path], object]] = {
    "safetensors": lambda path: save_file({"a": torch.zeros(MiB)}, path),
    "torch": lambda path: torch.save({"a": torch.zeros(MiB)}, path),
    "python": lambda path: path.write_bytes(bytes(4 * MiB)),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_whoever_notices_a_full_disk_it_is_named_and_the_half_checkpoint_is_gone(small_disk, writer):
    checkpoint = small_disk / "run" / "checkpoint-6"
    checkpoint.mkdir(parents=True)

    named = pytest.raises(UnsuitableHost, match=f"The disk of {small_disk} is full: checkpoint-6")
    with named, full_disk_told(checkpoint):
        WRITERS[writer](checkpoint / "file")

    assert not checkpoint.exists()


def test_any_other_failure_keeps_its_name(small_disk):
    checkpoint = small_disk / "run" / "checkpoint-6"
    checkpoint.mkdir(parents=True)

    with pytest.raises(RuntimeError, match="shapes differ"), full_disk_told(checkpoint):
        raise RuntimeError("shapes differ")


@pytest.mark.slow
def test_the_checkpoint_before_stays_and_the_failure_can_be_told(small_disk, tmp_path):
    (tmp_path / "inputs").mkdir()
    run = make_run(make_inputs(tmp_path / "inputs"), small_disk / "run", "single", save_steps=2)

    assert run.attempt().returncode

    error, _ = read_error(run.files.error(0))
    assert isinstance(error, UnsuitableHost), error
    assert f"The disk of {small_disk} is full" in error.cause
    assert newest_checkpoint(run.files.checkpoints, run.plan) is not None
