"""``python -m tests.worker.several RUN_DIR``: the worker's story for every run beneath *RUN_DIR*, one after the other.

It stands in for ``job.train``, as its imports take longer than three steps of a tiny model. A run that fails here, or
after another has, is to be tried by itself.
"""

import os
import sys
import traceback
from pathlib import Path

from job.rundir import RunDir
from job.train.story import train


def main() -> None:
    rank = int(os.environ.get("RANK", "0"))
    for folder in sorted(path.parent for path in Path(sys.argv[1]).glob("*/spec.json")):
        run_dir = RunDir(folder)
        run_dir.beat(rank).parent.mkdir(exist_ok=True)
        run_dir.beat(rank).touch()
        try:
            train(run_dir, rank)
        except Exception:
            traceback.print_exc()
            os._exit(1)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
