"""``python -m tests.chaos``: try every fault and write ``docs/chaos.md``.

``--seed N`` draws other moments, ``--only TEXT`` tries the faults with TEXT in their names and writes no file.
"""

import argparse
import platform
import tempfile
import time
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos.machines import Skipped
from tests.chaos.table import Fault, faults
from tests.chaos.world import BUCKET, Stage, World
from tests.servers.s3_server import S3Server
from tests.tiny import ROOT

DOC = ROOT / "docs" / "chaos.md"


@dataclass(frozen=True)
class Row:
    fault: str
    processes: int
    verdict: str
    said: str
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder, S3Server() as server:
        server.make_bucket(BUCKET)
        stage = Stage(Path(folder), server, options.seed)
        for fault in faults():
            for processes in fault.processes if options.only in fault.name else ():
                rows.append(_try(stage, fault, processes))
                print(_line(rows[-1]), flush=True)
    if not options.only:
        DOC.write_text(_document(rows, options.seed))
    return int(any(row.verdict == "FAILED" for row in rows))


def _try(stage: Stage, fault: Fault, processes: int) -> Row:
    name = "".join(char if char.isalnum() else "-" for char in fault.name)
    world, began = World(stage, processes, name), time.monotonic()
    try:
        verdict, said = "passed", fault.act(world)
    except Skipped as reason:
        verdict, said = "skipped", str(reason)
    except Exception as error:
        traceback.print_exc()
        verdict, said = "FAILED", str(error).splitlines()[0] if str(error) else type(error).__name__
    finally:
        stage.server.faults.clear()
        world.clear()
    return Row(fault.name, processes, verdict, said, time.monotonic() - began)


def _line(row: Row) -> str:
    kind = "single" if row.processes == 1 else "ddp, 2"
    return f"| {row.fault} | {kind} | {row.verdict} | {row.said} | {row.seconds:.0f} |"


def _document(rows: list[Row], seed: int) -> str:
    passed = sum(row.verdict == "passed" for row in rows)
    date = datetime.now(UTC).date()
    head = f"""# Faults that were tried

Written by `make chaos` on {date}: the real entrypoint, launcher and trainer with a tiny model on the CPU (Python
{platform.python_version()}), and a store that speaks S3 and verifies signatures and checksums. {passed} of {len(rows)}
passed. Seed {seed} draws the moments; `python -m tests.chaos --seed {seed} --only "SIGTERM in save"` repeats one. Codes
are the entrypoint's, in order of the attempts. Wherever a run goes on after its fault, its adapter, losses and
evaluations are compared bit by bit with those of a run that nothing happened to.

| fault | processes | verdict | what happened | seconds |
|---|---|---|---|---|
"""
    return head + "\n".join(map(_line, rows)) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
