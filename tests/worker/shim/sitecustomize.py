"""Lets FSDP and DeepSpeed run without a GPU. Only for tests, by PYTHONPATH.

Accelerate turns them on for processes that have a GPU each; without one, a job that asks for FSDP silently runs DDP.
Here every launched process says that it has one, and talks through gloo.
"""

import importlib.abc
import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _PatchWhenImported(importlib.abc.MetaPathFinder):
    """Most processes that start with this PYTHONPATH never import accelerate: they should not pay for it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "accelerate.state":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_patch(module: ModuleType) -> None:
            load(module)
            kind = module.DistributedType.MULTI_GPU
            module.PartialState._prepare_backend = lambda *_, **__: ("gloo", kind)

        spec.loader.exec_module = load_and_patch
        return spec


if "LOCAL_RANK" in os.environ:
    sys.meta_path.insert(0, _PatchWhenImported())
