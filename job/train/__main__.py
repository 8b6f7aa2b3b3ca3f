"""``python -m job.train RUN_DIR``: train as the plan says, prove the adapter, leave the result in files."""

import os
import sys
from pathlib import Path

import torch

from job.child import run_child
from job.errors import Diverged, OutOfMemory
from job.rundir import RunDir
from job.train.sft import train


def main() -> None:
    run_dir = RunDir(Path(sys.argv[1]))
    rank = int(os.environ.get("RANK", "0"))  # set by the launcher, the only channel it offers

    def story() -> None:
        try:
            train(run_dir)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"GPU memory ran out ({str(error).splitlines()[0]})",
                "Set JOB_PER_DEVICE_TRAIN_BATCH_SIZE=1, lower JOB_MAX_LENGTH, or use a larger GPU.",
            ) from error
        except FloatingPointError as error:
            raise Diverged(str(error), "Lower JOB_LEARNING_RATE, or look at the rows of that step.") from error

    run_child(story, run_dir.error(rank), rank)
    # Not through the interpreter's teardown: there libraries' threads have aborted a rank that had done all its work,
    # and it takes a second.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
