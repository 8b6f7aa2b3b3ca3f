"""GPUs by the names that platforms give them: for plans about machines that are not here, and for what NVML does not
tell, which is how fast they are.

Memory is about what NVML reports as total, in GiB: a little below the marketing figure. Compute capabilities are from
NVIDIA's table (developer.nvidia.com/cuda-gpus). TFLOPS are the data sheets' peaks of dense matrix products of 16-bit
numbers with 32-bit accumulation (half of the figure "with sparsity"); those of GeForce cards are from their
architectures' white papers. Links are one direction of NVLink, or of the PCIe slot, by specification.
"""

import re
from dataclasses import dataclass

from job.records import Gpu

_PCIE3, _PCIE4, _PCIE5 = 16, 32, 64  # GB/s in each direction, 16 lanes


@dataclass(frozen=True)
class GpuSpeed:
    """What a kind of GPU can do at best."""

    tflops: float  # dense 16-bit matrix products, 10^12 operations a second
    memory_gb_s: float
    link_gb_s: float  # to the next GPU, one direction
    host_gb_s: float  # to the host's memory, one direction


@dataclass(frozen=True)
class _Kind:
    name: str  # as NVML says it
    memory_gib: float
    compute_capability: tuple[int, int]
    speed: GpuSpeed


_GPUS = {
    "T4": _Kind("Tesla T4", 15.0, (7, 5), GpuSpeed(65, 320, _PCIE3, _PCIE3)),
    "L4": _Kind("NVIDIA L4", 22.5, (8, 9), GpuSpeed(121, 300, _PCIE4, _PCIE4)),
    "A10G": _Kind("NVIDIA A10G", 22.5, (8, 6), GpuSpeed(70, 600, _PCIE4, _PCIE4)),
    "RTX3090": _Kind("NVIDIA GeForce RTX 3090", 24.0, (8, 6), GpuSpeed(71, 936, _PCIE4, _PCIE4)),
    "RTX4090": _Kind("NVIDIA GeForce RTX 4090", 24.0, (8, 9), GpuSpeed(165, 1008, _PCIE4, _PCIE4)),
    "RTX5090": _Kind("NVIDIA GeForce RTX 5090", 31.8, (12, 0), GpuSpeed(209, 1792, _PCIE5, _PCIE5)),
    "RTX6000-ADA": _Kind("NVIDIA RTX 6000 Ada Generation", 48.0, (8, 9), GpuSpeed(364, 960, _PCIE4, _PCIE4)),
    "RTX-PRO-6000": _Kind(
        "NVIDIA RTX PRO 6000 Blackwell Server Edition", 95.6, (12, 0), GpuSpeed(504, 1597, _PCIE5, _PCIE5)
    ),
    "L40S": _Kind("NVIDIA L40S", 45.0, (8, 9), GpuSpeed(362, 864, _PCIE4, _PCIE4)),
    "A100-40GB": _Kind("NVIDIA A100-SXM4-40GB", 40.0, (8, 0), GpuSpeed(312, 1555, 300, _PCIE4)),
    "A100-80GB": _Kind("NVIDIA A100-SXM4-80GB", 80.0, (8, 0), GpuSpeed(312, 2039, 300, _PCIE4)),
    "H100-80GB": _Kind("NVIDIA H100 80GB HBM3", 79.6, (9, 0), GpuSpeed(989, 3350, 450, _PCIE5)),
    "H200": _Kind("NVIDIA H200", 140.4, (9, 0), GpuSpeed(989, 4800, 450, _PCIE5)),
    "B200": _Kind("NVIDIA B200", 178.4, (10, 0), GpuSpeed(2250, 8000, 900, _PCIE5)),
}
_ALIASES = {
    "A10": "A10G",
    "A100": "A100-40GB",
    "H100": "H100-80GB",
    "3090": "RTX3090",
    "4090": "RTX4090",
    "5090": "RTX5090",
    "RTX6000": "RTX6000-ADA",
    "RTX-6000": "RTX6000-ADA",
    "RTXPRO6000": "RTX-PRO-6000",
}
# Cards that a cloud lends under a name of NVML that is in no table above.
_MORE_SPEEDS = {
    "A100 80GB PCIe": GpuSpeed(312, 1935, _PCIE4, _PCIE4),
    "A100-PCIE-40GB": GpuSpeed(312, 1555, _PCIE4, _PCIE4),
    "H100 PCIe": GpuSpeed(756, 2000, _PCIE5, _PCIE5),
    "H100 NVL": GpuSpeed(835, 3900, _PCIE5, _PCIE5),
    "NVIDIA A10": GpuSpeed(125, 600, _PCIE4, _PCIE4),
    "RTX A6000": GpuSpeed(155, 768, _PCIE4, _PCIE4),
    "V100": GpuSpeed(112, 900, _PCIE3, _PCIE3),
}


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """``8xH100-80GB``, ``H100:8`` or ``L4``.

    Raises:
        ValueError: not of that form, or a GPU that is not in the table; the message lists what is.
    """
    form = re.fullmatch(r"(?:(\d+)\s*[x×]\s*)?([A-Za-z0-9-]+?)(?::(\d+))?", text.strip())
    name = form[2].upper() if form else ""
    name = _ALIASES.get(name, name)
    count = int(form[1] or form[3] or 1) if form else 0
    if form is None or name not in _GPUS or (form[1] and form[3]) or not count:
        raise ValueError(f"{text!r} is not of the form 8xH100-80GB or H100:8; known are {', '.join(_GPUS)}")
    return (_gpu(_GPUS[name]),) * count


def by_memory() -> tuple[tuple[str, Gpu], ...]:
    """Every GPU that can be named, with its name, the smallest memory first, and of about as much the slower first."""
    kinds = sorted(_GPUS.items(), key=lambda item: (round(item[1].memory_gib), item[1].speed.tflops))
    return tuple((name, _gpu(kind)) for name, kind in kinds)


def speed_of(gpu: Gpu) -> GpuSpeed | None:
    """How fast *gpu* is, by its name; None when nothing is known of it."""
    known = [(kind.name, kind.speed) for kind in _GPUS.values()] + list(_MORE_SPEEDS.items())
    found = [(name, speed) for name, speed in known if name in gpu.name]
    return max(found, key=lambda pair: len(pair[0]))[1] if found else None  # "H100 80GB HBM3", not "H100"


def _gpu(kind: _Kind) -> Gpu:
    return Gpu(name=kind.name, memory_gib=kind.memory_gib, compute_capability=kind.compute_capability)
