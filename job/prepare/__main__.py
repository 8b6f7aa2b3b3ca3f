"""``python -m job.prepare rows|preview TASK_JSON OUT_DIR``: write the rows as tokens (``train.arrow``, ``eval.arrow``,
``prepared.json``), or the first ones as the model sees them (``preview.json``)."""

import sys
from pathlib import Path

from job.child import run_child
from job.records import PrepareTask
from job.rundir import read_record, write_json


def main() -> None:
    what, task_path, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    # Where transformers finds torch it imports it, which takes longer than all else here and serves no tokenizer.
    sys.modules["torch"] = None  # type: ignore[assignment]

    def story() -> None:
        from job.prepare.preview import preview
        from job.prepare.story import prepare

        task = read_record(task_path, PrepareTask)
        if what == "preview":
            write_json(out / "preview.json", preview(task))
        else:
            write_json(out / "prepared.json", prepare(task, out))

    run_child(story, out / "error.json")


if __name__ == "__main__":
    main()
