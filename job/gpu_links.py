"""Whether the GPUs of a plan can talk to each other, found out before any row is prepared for them.

NCCL fails, hangs or returns wrong sums where GPUs reach each other's memory through a machine that does not let them
(PCIe access control, virtual machines; NCCL user guide, "GPU Direct"). Going through the host's memory instead
(``NCCL_P2P_DISABLE=1``) is slower and mostly works.
"""

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from job.errors import GpuFault, JobError
from job.processes import POLL_S, StopRequest, child_error, end_descendants
from job.records import AllReduce, Plan
from job.rundir import read_record
from job.signals import die_with_parent

# Several processes import torch and open CUDA at once, from a disk that may be cold; NCCL itself takes up to tens of
# seconds between many GPUs. A pair that hangs does so for ever.
LIMIT_S = 120.0
BACKEND = "nccl"
_WITHOUT_P2P = {"NCCL_P2P_DISABLE": "1"}
_CAUSE_LENGTH = 200  # characters; NCCL's own messages can be a page long


def prove_links(plan: Plan, folder: Path, env: Mapping[str, str], stop: StopRequest) -> Plan:
    """*plan*, once its GPUs have added up a tensor: as it is, or with what their workers must be told for it.

    Nothing else may run below this process meanwhile. *folder* keeps the log. With less than two GPUs there is nothing
    to prove.

    Raises:
        GpuFault: they cannot, either way.
        Interrupted: a signal arrived.
    """
    if not plan.use_gpu or plan.num_processes < 2:
        return plan
    failures: list[str] = []
    for worker_env in ({}, _WITHOUT_P2P) if env.get("NCCL_P2P_DISABLE") != "1" else ({},):
        try:
            found = all_reduce(plan.num_processes, folder, {**env, **worker_env}, stop)
        except GpuFault as fault:
            failures.append(fault.cause.rstrip("."))
        else:
            return _with_links(plan, worker_env, found, failures)
    raise _no_link(plan.num_processes, failures, folder)


def all_reduce(processes: int, folder: Path, env: Mapping[str, str], stop: StopRequest) -> AllReduce:
    """Let *processes* new processes add up a tensor between their GPUs, and leave none behind.

    Plain processes that meet in a file: nothing of a launcher's own can fail, and no port can be taken.

    Raises:
        GpuFault: one of them failed, got a wrong sum, or took too long.
        Interrupted: a signal arrived.
    """
    folder.mkdir(parents=True, exist_ok=True)
    errors = [folder / f"rank{rank}.json" for rank in range(processes)]
    for path in (*errors, folder / "all_reduce.json", folder / "meeting"):
        path.unlink(missing_ok=True)
    with (folder / "log").open("ab") as log:
        ranks = [
            subprocess.Popen(
                [sys.executable, "-m", "job.probe.all_reduce", folder, str(rank), str(processes), BACKEND],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env={"NCCL_DEBUG": "WARN", **env},
                start_new_session=True, preexec_fn=die_with_parent,
            )
            for rank in range(processes)
        ]  # fmt: skip
    try:
        status = _wait(ranks, stop)
    finally:
        end_descendants()
    if status:
        raise _as_gpu_fault(child_error(errors, status, "a process", folder / "log", GpuFault))
    return read_record(folder / "all_reduce.json", AllReduce)


def _wait(ranks: list["subprocess.Popen[bytes]"], stop: StopRequest) -> int:
    """The exit status of the first process that fails, for which the others would wait in vain, or else 0."""
    end = time.monotonic() + LIMIT_S
    while True:
        statuses = [rank.poll() for rank in ranks]
        if any(statuses) or None not in statuses:
            return next(filter(None, statuses), 0)
        stop.check()
        if time.monotonic() > end:
            raise GpuFault(f"it hung for {LIMIT_S:.0f} s.")
        time.sleep(POLL_S)


def _as_gpu_fault(error: JobError) -> GpuFault:
    cause = " ".join(error.cause.split())
    return GpuFault(cause if len(cause) <= _CAUSE_LENGTH else f"{cause[:_CAUSE_LENGTH]}…")


def _with_links(plan: Plan, worker_env: dict[str, str], found: AllReduce, failures: list[str]) -> Plan:
    reason = f"{plan.num_processes} GPUs add up 64 MiB at {found.gb_per_s:.1f} GB/s"
    if worker_env:
        reason += f" with NCCL_P2P_DISABLE=1; without it: {failures[0]}"
    return plan.model_copy(
        update={"worker_env": plan.worker_env | worker_env, "reasons": plan.reasons | {"links": reason}}
    )


def _no_link(processes: int, failures: list[str], folder: Path) -> GpuFault:
    return GpuFault(
        f"The {processes} GPUs cannot add up a tensor between them: {'; with NCCL_P2P_DISABLE=1: '.join(failures)}.",
        f"Use another machine, or a single GPU with JOB_NUM_PROCESSES=1; NCCL's own words are in {folder / 'log'}.",
    )
