"""Lets the program meet a machine that is not there, as FAKE_HOST (JSON) describes it. Python imports it on its own.

``gpus``, ``driver`` and ``cuda`` are those of `FakeNvml`; ``free`` maps folders to the bytes left in them; ``torch`` is
what torch was built for.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

_host = json.loads(os.environ["FAKE_HOST"])
_arguments = " ".join(sys.orig_argv)


def _fake_nvml() -> None:
    from tests.fakes.nvml import FakeGpu, FakeNvml

    gpus = [FakeGpu(**gpu) for gpu in _host["gpus"]]
    sys.modules["pynvml"] = FakeNvml(gpus, _host["driver"], _host["cuda"])  # type: ignore[assignment]


def _fake_disks() -> None:
    real = shutil.disk_usage

    def disk_usage(path: object) -> object:
        for folder, free in _host["free"].items():
            if Path(str(path)).is_relative_to(folder):
                return SimpleNamespace(total=2**40, used=2**40 - free, free=free)
        return real(path)

    shutil.disk_usage = disk_usage  # type: ignore[assignment]


def _fake_torch() -> None:
    import torch

    torch.__version__ = _host["torch"]["version"]
    torch.version.cuda = _host["torch"]["cuda"]
    torch.cuda.get_arch_list = lambda: _host["torch"]["archs"]


if "entrypoint.py" in _arguments:
    _fake_nvml()
    _fake_disks()
if "job.probe.torch_build" in _arguments:
    _fake_torch()
