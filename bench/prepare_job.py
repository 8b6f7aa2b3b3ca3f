"""One preparation as the job's own process does it, without its imports: seconds and the result, as JSON on stdout.

python bench/prepare_job.py TASK_JSON OUT_DIR
"""

import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.modules["torch"] = None  # type: ignore[assignment]  # as in job/prepare/__main__.py

from job.prepare.story import write_rows  # noqa: E402
from job.prepare.tokenize import RowTokenizer  # noqa: E402
from job.records import PrepareTask  # noqa: E402
from job.rundir import read_record  # noqa: E402


def main() -> None:
    task = read_record(Path(sys.argv[1]), PrepareTask)
    tokenizer = RowTokenizer(task.tokenizer, task.chat_template)
    began = time.perf_counter()
    prepared = write_rows(task, Path(sys.argv[2]), tokenizer)
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "prepared": prepared.model_dump(mode="json")}))


if __name__ == "__main__":
    main()
