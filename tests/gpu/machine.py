"""The GPUs that are here, and the marks of every test that needs one."""

import importlib.util
import os

import pytest

from job.facts.hardware import inspect_hardware
from job.plan import BF16_COMPUTE_CAPABILITY
from job.records import Precision

HARDWARE = inspect_hardware(os.environ)
GPUS = HARDWARE.gpus
NEEDS_GPU = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.skipif(not GPUS, reason="no NVIDIA GPU is visible")]
PRECISION: Precision = "bf16" if GPUS and GPUS[0].compute_capability >= BF16_COMPUTE_CAPABILITY else "fp16"


def needs(package: str) -> pytest.MarkDecorator:
    """Skips where *package* is not installed."""
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")
