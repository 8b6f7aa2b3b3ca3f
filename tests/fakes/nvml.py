"""NVML as a machine with an NVIDIA driver answers it, for machines without one."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml

GIB = 2**30


@dataclass
class FakeGpu:
    """One GPU. None is what NVML answers with "Not Supported"."""

    name: str = "NVIDIA A100-SXM4-80GB"
    capability: tuple[int, int] = (8, 0)
    total: int = 80 * GIB
    used: int = 3 * 2**20
    reserved: int | None = 600 * 2**20
    pids: tuple[int, ...] | None = ()
    ecc_errors: int | None = 0
    remapped: tuple[int, int, int, int] | None = (0, 0, 0, 0)
    lost: bool = False


@dataclass
class FakeNvml:
    """Stands in for the module ``pynvml``; its constants and errors are the real ones."""

    gpus: list[FakeGpu] = field(default_factory=lambda: [FakeGpu()])
    driver: str = "580.95.05"
    cuda: int | None = 13000

    def __getattr__(self, name: str) -> Any:
        if name.startswith("NVML") or name == "nvmlMemory_v2":
            return getattr(pynvml, name)
        raise AttributeError(name)

    def nvmlInit(self) -> None:  # noqa: N802 (NVML's own names, here and below)
        pass

    def nvmlShutdown(self) -> None:  # noqa: N802
        pass

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return self.driver

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:  # noqa: N802
        return _supported(self.cuda)

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:  # noqa: N802
        return self.gpus[index]

    def nvmlDeviceGetUUID(self, gpu: FakeGpu) -> str:  # noqa: N802
        return f"GPU-{self.gpus.index(gpu)}"

    def nvmlDeviceGetName(self, gpu: FakeGpu) -> str:  # noqa: N802
        return gpu.name

    def nvmlDeviceGetCudaComputeCapability(self, gpu: FakeGpu) -> tuple[int, int]:  # noqa: N802
        return gpu.capability

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu, version: int | None = None) -> SimpleNamespace:  # noqa: N802
        """Without *version*, and on drivers that know no other, what is reserved counts as used."""
        if gpu.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        if version:
            _supported(gpu.reserved)
            return SimpleNamespace(total=gpu.total, used=gpu.used)
        return SimpleNamespace(total=gpu.total, used=gpu.used + (gpu.reserved or 0))

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: FakeGpu) -> list[SimpleNamespace]:  # noqa: N802
        return [SimpleNamespace(pid=pid) for pid in _supported(gpu.pids)]

    def nvmlDeviceGetTotalEccErrors(self, gpu: FakeGpu, kind: int, counter: int) -> int:  # noqa: N802
        assert (kind, counter) == (pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC)
        return _supported(gpu.ecc_errors)

    def nvmlDeviceGetRemappedRows(self, gpu: FakeGpu) -> tuple[int, int, int, int]:  # noqa: N802
        return _supported(gpu.remapped)


def _supported(answer: Any) -> Any:
    if answer is None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    return answer
