"""``python -m tests.unit.kept RUN_DIR RANK WORLD_SIZE WHAT [SUPERVISOR]``: a keeper whose child does WHAT instead of
training."""

import os
import signal
import sys
import time
from pathlib import Path

from job.rundir import RunDir
from job.train.keeper import keep


def work() -> None:
    match sys.argv[4]:
        case "wait":
            time.sleep(60)
        case "obey":
            stop = RunDir(Path(sys.argv[1])).stop
            while not stop.exists():
                time.sleep(0.01)
        case status if status.isdigit():
            os._exit(int(status))
        case name:
            os.kill(os.getpid(), signal.Signals[name])


if __name__ == "__main__":
    supervisor = int(sys.argv[5]) if len(sys.argv) > 5 else None
    sys.exit(keep(work, RunDir(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3]), supervisor))
