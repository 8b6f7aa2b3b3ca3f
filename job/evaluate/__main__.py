"""``python -m job.evaluate RUN_DIR``: judge the adapter that is to be published, and leave ``judgement.json``."""

import os
import sys
from pathlib import Path

from job.child import run_child
from job.records import EvaluateTask
from job.rundir import RunDir, read_record
from job.unneeded import leave_out_bitsandbytes


def main() -> None:
    run_dir = RunDir(Path(sys.argv[1]))

    def story() -> None:
        leave_out_bitsandbytes(read_record(run_dir.evaluate_task, EvaluateTask).plan)
        from job.evaluate.story import evaluate
        from job.train.faults import faults_told

        with faults_told(0):
            evaluate(run_dir)

    run_child(story, run_dir.evaluate_error, spare=run_dir.spare)
    # Not through the interpreter's teardown, as in job.train.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
