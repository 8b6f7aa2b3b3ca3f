"""What answering 100 held-out rows with base and adapter adds to the demo: ``python bench/answers.py [FOLDER]``.

One run of the demo with a quarter of its rows held out: the seconds from the first prompt to the last answer, against
those of the demo from its first row to its last line. The adapter gate loads the model anyway.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROWS = 100


def main() -> None:
    """Run the demo and print a row for docs/benchmarks.md."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else scratch).absolute()
        began = time.monotonic()
        demo(folder)
        took = time.monotonic() - began
        answering = answering_s(folder)
    print(f"| answering {ROWS} rows twice, of the demo's {took:.0f} s | {answering / took:.1%} | ≤ 20 % | ", end="")
    print("yes |" if answering / took <= 0.2 else "no |")


def demo(folder: Path) -> None:
    """The steps of examples/demo/run.sh in *folder*, with as many rows held out as are to be answered."""
    lines = (ROOT / "examples" / "demo" / "demo.env").read_text().replace("./demo-run", str(folder)).splitlines()
    asked = {
        "JOB_EVAL_FRACTION": "0.25",
        "JOB_EVAL_GENERATE": str(ROWS),
        "JOB_EVAL_SCORERS": "exact_match,classification",
    }
    env = os.environ | dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#") | asked
    steps = (
        ("examples/demo/make_data.py", folder / "data"),
        ("examples/demo/make_base.py", folder / "base"),
        ("entrypoint.py",),
        ("examples/demo/score.py", folder / "base", folder / "output" / "adapter", folder / "data" / "test.jsonl"),
    )
    for step in steps:
        subprocess.run([sys.executable, *step], cwd=ROOT, env=env, check=True)


def answering_s(folder: Path) -> float:
    """Seconds from the beginning to the last answer."""
    lines = [line for log in folder.glob("work/runs/*/log.jsonl") for line in log.read_text().splitlines()]
    events = [event for event in map(json.loads, lines) if event["event"] == "answering"]
    assert events[-1]["answers"] == events[-1]["of"] == 2 * ROWS, events[-1]
    return float(events[-1]["time"] - events[0]["time"])


if __name__ == "__main__":
    main()
