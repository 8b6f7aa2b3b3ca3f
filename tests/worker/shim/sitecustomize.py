"""Lets FSDP and DeepSpeed run without a GPU. Only for tests, by PYTHONPATH.

Accelerate turns them on for processes that have a GPU each; without one, a job that asks for FSDP silently runs DDP.
Here every launched process says that it has one that knows bf16, and talks through gloo.
"""

import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def say_there_are_gpus(state: ModuleType) -> None:
    kind = state.DistributedType.MULTI_GPU
    state.PartialState._prepare_backend = lambda *_, **__: ("gloo", kind)


def say_they_know_bf16(import_utils: ModuleType) -> None:
    import_utils.is_torch_bf16_gpu_available = lambda: True


def pin_nothing(torch: ModuleType) -> None:
    torch.Tensor.pin_memory = lambda tensor, *_: tensor


def sum_through_gloo(comm: ModuleType) -> None:
    """DeepSpeed would compile a sum through shared memory, half a minute a session, with which ranks have hung."""
    comm.build_shm_op = lambda: None


class PatchWhenImported(importlib.abc.MetaPathFinder):
    """Most processes that start with this PYTHONPATH import none of *patches*: they should not pay for them."""

    def __init__(self, patches: dict[str, Callable[[ModuleType], None]]) -> None:
        self._patches = patches

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in self._patches:
            return None
        patch = self._patches.pop(name)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_patch(module: ModuleType) -> None:
            load(module)
            patch(module)

        spec.loader.exec_module = load_and_patch
        return spec


if "LOCAL_RANK" in os.environ:
    patches = {
        "torch": pin_nothing,
        "accelerate.state": say_there_are_gpus,
        "deepspeed.comm.torch": sum_through_gloo,
        "transformers.utils.import_utils": say_they_know_bf16,
    }
    sys.meta_path.insert(0, PatchWhenImported(patches))
