"""``python -m job.prepare TASK_JSON OUT_DIR``: write ``train.arrow``, ``eval.arrow`` and ``prepared.json``."""

import sys
from pathlib import Path

from job.child import run_child
from job.prepare.story import prepare
from job.records import PrepareTask
from job.rundir import read_record, write_json


def main() -> None:
    task_path, out = Path(sys.argv[1]), Path(sys.argv[2])

    def story() -> None:
        write_json(out / "prepared.json", prepare(read_record(task_path, PrepareTask), out))

    run_child(story, out / "error.json")


if __name__ == "__main__":
    main()
