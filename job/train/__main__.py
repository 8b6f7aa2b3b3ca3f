"""``python -m job.train RUN_DIR``: train as the plan says, prove the adapter, leave the result in files."""

import os
import sys
from pathlib import Path

from job.rundir import RunDir
from job.train.keeper import keep


def main() -> None:
    run_dir = RunDir(Path(sys.argv[1]))
    # Set by the launcher, the only channel it offers; not for a single process.
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    supervisor = os.environ.get("GRAFT_SUPERVISOR_PID")

    def work() -> None:
        from job.train.worker import work  # imports torch, which the keeper must not pay for

        work(run_dir, rank)

    # Not through the interpreter's teardown, which has nothing to do here and can only fail.
    os._exit(keep(work, run_dir, rank, world_size, int(supervisor) if supervisor else None))


if __name__ == "__main__":
    main()
