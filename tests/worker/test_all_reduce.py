"""Whether processes can add up a tensor: over gloo here, which stands in for NCCL between GPUs."""

import os
import signal
import threading
from pathlib import Path

import psutil
import pytest

from job import gpu_links
from job.errors import GpuFault, Interrupted
from job.gpu_links import prove_links
from job.processes import StopRequest, children_env
from job.records import Plan

HANGS = "import time; time.sleep(600)"
DIES = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
LIES = """
import torch.distributed as dist
real = dist.all_reduce
def all_reduce(tensor):
    real(tensor)
    tensor[-1] += 1
dist.all_reduce = all_reduce
"""


@pytest.fixture(autouse=True)
def gloo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_links, "BACKEND", "gloo")


def plan(processes: int = 2, use_gpu: bool = True) -> Plan:
    return Plan(
        strategy="ddp", num_processes=processes, precision="bf16", per_device_train_batch_size=1,
        gradient_accumulation_steps=1, global_batch_size=processes, packing=False, gradient_checkpointing=True,
        max_length=8, use_gpu=use_gpu, reasons={"strategy": "ddp"},
    )  # fmt: skip


def machine_where(folder: Path, condition: str, what: str) -> dict[str, str]:
    """The environment of a machine whose links do *what* in processes where *condition* holds."""
    body = "\n".join(f"    {line}" for line in what.strip().splitlines())
    condition = f"'job.probe.all_reduce' in sys.orig_argv and ({condition})"
    (folder / "sitecustomize.py").write_text(f"import os, sys\nif {condition}:\n{body}\n")
    return children_env(os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)})


WITH_P2P = "os.environ.get('NCCL_P2P_DISABLE') != '1'"
ALWAYS = "True"


def test_gpus_that_add_up_leave_the_plan_as_it_is_but_for_the_reason(tmp_path):
    proven = prove_links(plan(), tmp_path / "links", children_env(os.environ), StopRequest())

    assert proven.worker_env == {}
    assert proven.reasons.pop("links").startswith("2 GPUs add up 64 MiB at ")
    assert proven == plan()


@pytest.mark.parametrize("alone", [plan(1), plan(2, use_gpu=False)], ids=["one GPU", "no GPU"])
def test_without_two_gpus_there_is_nothing_to_prove(alone, tmp_path):
    assert prove_links(alone, tmp_path / "links", {}, StopRequest()) is alone
    assert not (tmp_path / "links").exists()


@pytest.mark.parametrize(
    ("what", "said"), [(HANGS, "it hung for 15 s"), (DIES, "SIGSEGV"), (LIES, "received a wrong sum")]
)
def test_a_machine_whose_gpus_cannot_reach_each_other_trains_through_the_hosts_memory(
    what, said, tmp_path, monkeypatch
):
    monkeypatch.setattr(gpu_links, "LIMIT_S", 15.0)
    env = machine_where(tmp_path, WITH_P2P, what)

    proven = prove_links(plan(), tmp_path / "links", env, StopRequest())

    assert proven.worker_env == {"NCCL_P2P_DISABLE": "1"}
    assert "with NCCL_P2P_DISABLE=1; without it: " in proven.reasons["links"]
    assert said in proven.reasons["links"]
    assert psutil.Process().children(recursive=True) == []


def test_where_neither_way_works_both_failures_are_told(tmp_path):
    env = machine_where(tmp_path, ALWAYS, f"if {WITH_P2P}: raise SystemExit('no peer')\nraise SystemExit('no host')")

    with pytest.raises(GpuFault) as fault:
        prove_links(plan(), tmp_path / "links", env, StopRequest())

    assert fault.value.cause == (
        "The 2 GPUs cannot add up a tensor between them: a process ended with status 1: SystemExit: no peer; "
        "with NCCL_P2P_DISABLE=1: a process ended with status 1: SystemExit: no host."
    )
    assert str(tmp_path / "links" / "log") in fault.value.fix


def test_what_the_user_has_turned_off_is_not_tried_again(tmp_path):
    env = machine_where(tmp_path, ALWAYS, "raise SystemExit('no link')") | {"NCCL_P2P_DISABLE": "1"}

    with pytest.raises(GpuFault) as fault:
        prove_links(plan(), tmp_path / "links", env, StopRequest())

    assert "NCCL_P2P_DISABLE" not in fault.value.cause


def test_the_failure_of_one_is_not_waited_out_by_the_others(tmp_path):
    env = machine_where(tmp_path, "sys.orig_argv[-3] == '1'", "raise SystemExit('rank 1 is gone')")

    with pytest.raises(GpuFault, match="rank 1 is gone"):
        prove_links(plan(), tmp_path / "links", env, StopRequest())
    assert psutil.Process().children(recursive=True) == []


def test_a_signal_ends_the_attempt(tmp_path):
    env = machine_where(tmp_path, ALWAYS, HANGS)
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()

    with StopRequest() as stop, pytest.raises(Interrupted):
        prove_links(plan(), tmp_path / "links", env, stop)
    assert psutil.Process().children(recursive=True) == []
