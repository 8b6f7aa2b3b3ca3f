"""``python -m job.probe.torch_build OUT_DIR``: what was the installed torch compiled for?

The list of architectures is compiled into torch's libraries, so only an import can tell it. No GPU is touched.
"""

import sys
from pathlib import Path

import torch

from job.child import run_child
from job.records import TorchBuild
from job.rundir import write_json


def torch_build() -> TorchBuild:
    """The version, CUDA and architectures of torch itself."""
    return TorchBuild(version=str(torch.__version__), cuda=torch.version.cuda, archs=tuple(torch.cuda.get_arch_list()))


def main() -> None:
    out = Path(sys.argv[1])
    run_child(lambda: write_json(out / "torch_build.json", torch_build()), out / "error.json")


if __name__ == "__main__":
    main()
