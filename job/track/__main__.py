"""``python -m job.track RUN_DIR TRACKER``: tell a tracker what the run's log says, until that says that it ended."""

import sys
import time
from pathlib import Path

from job.child import run_child
from job.events import EventTail
from job.rundir import RunDir, read_record
from job.spec import JobSpec
from job.track.trackers import open_tracker

_POLL_S = 0.5


def main() -> None:
    run_dir, name = RunDir(Path(sys.argv[1])), sys.argv[2]

    def story() -> None:
        events = EventTail(run_dir.log)  # before anything that takes time: what is logged meanwhile is told
        tracker = open_tracker(name, read_record(run_dir.spec, JobSpec), run_dir)
        tracked = True
        while tracked:
            for event in events.new():
                if event["event"] in ("train", "evaluation"):
                    tracker.log(event["step"], figures(event))
                tracked &= event["event"] != "tracking_end"
            time.sleep(_POLL_S)
        tracker.finish()

    run_child(story, run_dir.tracker_error(name))


def figures(event: dict[str, object]) -> dict[str, float]:
    """The numbers of an *event* by the Trainer's names, under ``train/`` or ``eval/`` as its own callbacks put them."""
    numbers = {
        name: value for name, value in event.items() if isinstance(value, (int, float)) and name not in ("time", "step")
    }
    return {
        f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}": float(value)
        for name, value in numbers.items()
    }


if __name__ == "__main__":
    main()
