"""The machine's GPUs through NVML, so that nothing here needs torch or a CUDA context."""

import os
from collections.abc import Mapping
from pathlib import Path

import psutil
import pynvml

from job.records import Gpu, HardwareFacts

_GIB = 2**30


def inspect_hardware(env: Mapping[str, str]) -> HardwareFacts:
    """The GPUs that *env*'s ``CUDA_VISIBLE_DEVICES`` leaves visible, the CPUs this process may use, the memory."""
    gpus, driver = _gpus(env.get("CUDA_VISIBLE_DEVICES"))
    return HardwareFacts(
        gpus=gpus,
        driver=driver,
        cpus=usable_cpus(Path("/sys/fs/cgroup/cpu.max")),
        memory_gib=round(psutil.virtual_memory().total / _GIB, 1),
    )


def usable_cpus(quota: Path) -> int:
    """The CPUs this process may run on, no more than the container's *quota* (a ``cpu.max`` of cgroup v2) pays for."""
    cpus = len(os.sched_getaffinity(0))
    try:
        allowed, period = quota.read_text().split()
    except OSError:  # no container, or cgroup v1
        return cpus
    return cpus if allowed == "max" else max(1, min(cpus, round(int(allowed) / int(period))))


def _gpus(visible: str | None) -> tuple[tuple[Gpu, ...], str | None]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        # No driver, or a container started without --gpus: the plan decides whether that is a problem.
        return (), None
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        uuids = [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]
        chosen = [handles[i] for i in visible_indices(visible, uuids)]
        return tuple(_gpu(handle) for handle in chosen), pynvml.nvmlSystemGetDriverVersion()
    finally:
        pynvml.nvmlShutdown()


def visible_indices(visible: str | None, uuids: list[str]) -> list[int]:
    """Which devices CUDA would show: all when *visible* is None, else the indices or UUID prefixes it lists, up to
    the first that does not exist (CUDA ignores what follows an invalid entry)."""
    if visible is None:
        return list(range(len(uuids)))
    indices: list[int] = []
    for entry in (part.strip() for part in visible.split(",")):
        if entry.isdigit() and int(entry) < len(uuids):
            indices.append(int(entry))
        elif entry and (match := [i for i, uuid in enumerate(uuids) if uuid.startswith(entry)]):
            indices.append(match[0])
        else:
            break
    return indices


def _gpu(handle: object) -> Gpu:
    return Gpu(
        name=pynvml.nvmlDeviceGetName(handle),
        memory_gib=round(pynvml.nvmlDeviceGetMemoryInfo(handle).total / _GIB, 1),
        compute_capability=tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle)),
    )
