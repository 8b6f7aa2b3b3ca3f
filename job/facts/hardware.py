"""The machine's GPUs through NVML, so that nothing here needs torch or a CUDA context; its CPUs and its memory."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import psutil
import pynvml

from job.errors import UnsuitableHost
from job.records import Gpu, HardwareFacts

_GIB = 2**30
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (where NCCL puts its segments; nothing is written here)


def inspect_hardware(env: Mapping[str, str]) -> HardwareFacts:
    """The GPUs that *env*'s ``CUDA_VISIBLE_DEVICES`` leaves visible, the CPUs this process may use, the memory.

    Raises:
        UnsuitableHost: the driver lists a GPU that does not answer.
    """
    gpus, driver, cuda = _gpus(env.get("CUDA_VISIBLE_DEVICES"))
    return HardwareFacts(
        gpus=gpus,
        driver=driver,
        cuda=cuda,
        cpus=usable_cpus(Path("/sys/fs/cgroup/cpu.max")),
        memory_gib=round(usable_memory(Path("/sys/fs/cgroup/memory.max")) / _GIB, 1),
        shm_gib=None if env.get("NCCL_SHM_DISABLE") == "1" else _free_gib(SHARED_MEMORY),
    )


def usable_cpus(quota: Path) -> int:
    """The CPUs this process may run on, no more than the container's *quota* (a ``cpu.max`` of cgroup v2) pays for."""
    cpus = len(os.sched_getaffinity(0))
    try:
        allowed, period = quota.read_text().split()
    except OSError:  # no container, or cgroup v1
        return cpus
    return cpus if allowed == "max" else max(1, min(cpus, round(int(allowed) / int(period))))


def usable_memory(limit: Path) -> int:
    """Bytes that this process may use, no more than the container's *limit* (a ``memory.max`` of cgroup v2)."""
    total: int = psutil.virtual_memory().total
    try:
        allowed = limit.read_text().strip()
    except OSError:  # no container, or cgroup v1
        return total
    return total if allowed == "max" else min(total, int(allowed))


def _free_gib(folder: Path) -> float | None:
    """What is free in *folder*, 0 where there is none; None where its file system names no size, as sandboxes may."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return 0.0
    return usage.free / _GIB if usage.total else None


def _gpus(visible: str | None) -> tuple[tuple[Gpu, ...], str | None, tuple[int, int] | None]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        # No driver, or a container started without --gpus: the plan decides whether that is a problem.
        return (), None, None
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        uuids = [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]
        gpus = tuple(_gpu(i, handles[i]) for i in visible_indices(visible, uuids))
        return gpus, pynvml.nvmlSystemGetDriverVersion(), _cuda()
    except pynvml.NVMLError as error:  # "GPU is lost": it has fallen off the bus
        raise UnsuitableHost(
            f"The NVIDIA driver lists a GPU that does not answer ({error}).",
            "Use another machine; on this one `nvidia-smi` tells which GPU it is, and a reboot may bring it back.",
        ) from error
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


def _cuda() -> tuple[int, int] | None:
    """The version of the CUDA driver library, which may be newer than the kernel's (a compatibility package)."""
    version = _told(pynvml.nvmlSystemGetCudaDriverVersion_v2)
    return (version // 1000, version % 1000 // 10) if version else None


def _gpu(index: int, handle: object) -> Gpu:
    memory = _memory(handle)
    return Gpu(
        name=pynvml.nvmlDeviceGetName(handle),
        memory_gib=round(memory.total / _GIB, 1),
        compute_capability=tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle)),
        used_gib=round(memory.used / _GIB, 1),
        index=index,
        processes=tuple(process.pid for process in _told(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or ()),
        ecc_errors=_told(
            pynvml.nvmlDeviceGetTotalEccErrors,
            handle,
            pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
            pynvml.NVML_VOLATILE_ECC,
        ),
        row_remap=_row_remap(handle),
    )


def _memory(handle: object) -> Any:
    """Total and used bytes. Drivers before 510 count what they reserve for themselves as used."""
    return _told(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2) or pynvml.nvmlDeviceGetMemoryInfo(handle)


def _row_remap(handle: object) -> Literal["pending", "failed"] | None:
    _, _, pending, failed = _told(pynvml.nvmlDeviceGetRemappedRows, handle) or (0, 0, 0, 0)
    if failed:
        return "failed"
    return "pending" if pending else None


def _told(ask: Callable[..., Any], *arguments: object) -> Any:
    """NVML's answer, None where it gives none: MIG, vGPU, small GPUs and older drivers support only a part of it."""
    try:
        return ask(*arguments)
    except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError):
        return None
