"""GPUs by the names that platforms give them, for plans about machines that are not here.

Memory is about what NVML reports as total, in GiB: a little below the marketing figure. Compute capabilities are from
NVIDIA's table (developer.nvidia.com/cuda-gpus).
"""

import re

from job.records import Gpu

_GPUS = {
    "T4": ("Tesla T4", 15.0, (7, 5)),
    "L4": ("NVIDIA L4", 22.5, (8, 9)),
    "A10G": ("NVIDIA A10G", 22.5, (8, 6)),
    "RTX3090": ("NVIDIA GeForce RTX 3090", 24.0, (8, 6)),
    "RTX4090": ("NVIDIA GeForce RTX 4090", 24.0, (8, 9)),
    "RTX5090": ("NVIDIA GeForce RTX 5090", 31.8, (12, 0)),
    "L40S": ("NVIDIA L40S", 45.0, (8, 9)),
    "A100-40GB": ("NVIDIA A100-SXM4-40GB", 40.0, (8, 0)),
    "A100-80GB": ("NVIDIA A100-SXM4-80GB", 80.0, (8, 0)),
    "H100-80GB": ("NVIDIA H100 80GB HBM3", 79.6, (9, 0)),
    "H200": ("NVIDIA H200", 140.4, (9, 0)),
    "B200": ("NVIDIA B200", 178.4, (10, 0)),
}
_ALIASES = {
    "A10": "A10G",
    "A100": "A100-40GB",
    "H100": "H100-80GB",
    "3090": "RTX3090",
    "4090": "RTX4090",
    "5090": "RTX5090",
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
    full_name, memory_gib, capability = _GPUS[name]
    gpu = Gpu(name=full_name, memory_gib=memory_gib, compute_capability=capability)
    return (gpu,) * count
