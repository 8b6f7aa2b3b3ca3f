"""``python -m tests.gpu.ballast GO``: takes memory of the first GPU once the file GO says how many GiB to leave free.

What needs time, CUDA's context, is made before; a line on stdout says so, and another one that the memory is taken.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.tiny import ROOT

GIB = 2**30
POLL_S = 0.02


@contextmanager
def ballast(go: Path) -> Iterator["subprocess.Popen[str]"]:
    """The process, ready and waiting for *go*; ended with the block."""
    command = [sys.executable, "-m", "tests.gpu.ballast", go]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def main() -> None:
    import torch

    go = Path(sys.argv[1])
    torch.zeros(1, device="cuda")
    print("ready", flush=True)
    while not (go.exists() and go.read_text()):
        time.sleep(POLL_S)
    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(max(0, int(free - float(go.read_text()) * GIB)), dtype=torch.uint8, device="cuda")
    print(f"took {held.nbytes}", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main()
