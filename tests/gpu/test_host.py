"""The facts of a machine with a GPU, by the real NVML, and what is no fault and what is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from job.facts.gpus import speed_of
from job.host import gpu_faults, read_torch_build
from job.processes import StopRequest, children_env
from tests.e2e.job import run
from tests.gpu.ballast import ballast
from tests.gpu.machine import GPUS, HARDWARE, NEEDS_GPU
from tests.tiny import write_model, write_rows

pytestmark = NEEDS_GPU

ASK_TORCH = """
import json, torch
one = torch.cuda.get_device_properties(0)
print(json.dumps([one.name, one.total_memory, [one.major, one.minor]]))
"""


def test_nvml_and_torch_tell_the_same_of_the_first_gpu():
    said = subprocess.run([sys.executable, "-c", ASK_TORCH], capture_output=True, text=True, check=True).stdout
    name, total, capability = json.loads(said)

    assert GPUS[0].name == name
    assert GPUS[0].compute_capability == tuple(capability)
    assert GPUS[0].memory_gib == pytest.approx(total / 2**30, rel=0.02)


def test_the_driver_tells_its_version_and_its_cuda():
    assert HARDWARE.driver
    assert HARDWARE.cuda >= (11, 0)


def test_a_machine_in_good_health_has_no_faults(tmp_path):
    build = read_torch_build(tmp_path, children_env(os.environ), StopRequest())

    assert build.cuda
    assert [fault.cause for fault in gpu_faults(HARDWARE, build)] == []


def test_the_speed_of_this_gpu_is_known():
    """Where it is not, a plan tells neither hours nor cost: add it to job/facts/gpus.py."""
    assert [gpu.name for gpu in GPUS if speed_of(gpu) is None] == []


def test_a_gpu_that_somebody_else_uses_is_refused_before_anything_is_done(tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", 20)
    go = tmp_path / "go"
    go.write_text(str(GPUS[0].memory_gib / 2))
    with ballast(go) as other:
        assert other.stdout.readline().startswith("took ")
        ended = run(
            {
                "JOB_MODEL": str(write_model(tmp_path / "model", rows)),
                "JOB_DATASET_URI": str(rows),
                "JOB_OUTPUT_URI": str(tmp_path / "output"),
                "JOB_WORK_DIR": str(tmp_path / "work"),
            }
        )

    assert ended.code == 80, ended.shown
    assert f"GPU {GPUS[0].index} ({GPUS[0].name}) is occupied" in ended.outcome["cause"]
    assert not Path(tmp_path / "output").exists()
