"""The process of one rank, from its first line of torch to its last file."""

import os
import sys

from job.child import run_child
from job.records import Plan
from job.rundir import RunDir, read_record
from job.unneeded import leave_out_bitsandbytes


def work(run_dir: RunDir, rank: int) -> None:
    """Train, and leave the result or the reason why there is none. Does not return."""

    def story() -> None:
        leave_out_bitsandbytes(read_record(run_dir.plan, Plan))
        from job.train.faults import faults_told
        from job.train.story import train

        with faults_told(rank):
            train(run_dir, rank)

    run_child(story, run_dir.error(rank), rank, run_dir.spare)
    # Not through the interpreter's teardown: there libraries' threads have aborted a rank that had done all its work,
    # and it takes a second.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
