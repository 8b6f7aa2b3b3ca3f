"""Ranks without torch, with the signs that real ones give: ``python -m tests.fakes.ranks RUN_DIR`` stands in for
``job.train`` under any launcher, and ``… RUN_DIR COUNT`` starts that many, waiting for all as long as one lives.

Each has a child in a session of its own, and trains until the stop file is there. FAKE_DEAF: that rank does not obey
it. FAKE_STUCK: it waits for ever. FAKE_RAISES, FAKE_FULL, FAKE_LEAVES: it fails with a report, of bad data or of a
GPU's full memory, or without one. FAKE_DIES: by SIGKILL.
FAKE_WATCHES: it reports the loss of a peer at once. FAKE_CORE_S: seconds until the end of a crashed rank is recorded.
"""

import faulthandler
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from job.child import run_child
from job.errors import BadData, GpuFault, OutOfMemory
from job.events import EventLog
from job.records import Exit, WorkerError
from job.rundir import RunDir, write_json

RANK = os.environ.get("RANK", "0")


def launch(count: int) -> None:
    command = [sys.executable, "-m", "tests.fakes.ranks", sys.argv[1]]
    ranks = [
        subprocess.Popen(command, env={**os.environ, "RANK": str(rank)}, start_new_session=True)
        for rank in range(count)
    ]
    statuses = [rank.wait() for rank in ranks]
    sys.exit(any(statuses))


def keep(run_dir: RunDir) -> None:
    """Record how the rank in a child ended."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = os.fork()
    if child == 0:
        run_child(lambda: train(run_dir), run_dir.error(int(RANK)), int(RANK))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    time.sleep(float(os.environ.get("FAKE_CORE_S", "0")) if killed else 0)
    ended = Exit(status=None if killed else os.WEXITSTATUS(status), signal=killed, time=time.time())
    write_json(run_dir.exit(int(RANK)), ended)
    sys.exit(1 if status else 0)


def train(run_dir: RunDir) -> None:
    faulthandler.register(signal.SIGUSR1, file=run_dir.stack(int(RANK)).open("w"), all_threads=True)
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    peers = [path for path in (run_dir.beat(rank) for rank in range(2)) if path != run_dir.beat(int(RANK))]
    run_dir.beat(int(RANK)).write_text(str(os.getpid()))
    if RANK == "0":
        EventLog(run_dir.log).write("first_step", step=1)
    while not run_dir.stop.exists() or _is("DEAF"):
        os.utime(run_dir.beat(int(RANK)))
        time.sleep(0.05)
        misbehave()
        if _is("WATCHES") and any(path.exists() and not alive(path) for path in peers):
            lose_a_peer(run_dir)


def misbehave() -> None:
    if _is("STUCK"):
        stuck()
    if _is("RAISES"):
        raise BadData("row 3 is broken")
    if _is("FULL"):
        raise OutOfMemory("GPU memory ran out (32 MiB)")
    if _is("DIES"):
        os.kill(os.getpid(), signal.SIGKILL)
    if _is("LEAVES"):
        print("the library left", flush=True)
        os._exit(3)


def stuck() -> None:
    time.sleep(600)


def alive(beat: Path) -> bool:
    try:
        state = Path("/proc", beat.read_text() or "0", "stat").read_text()
    except OSError:
        return False
    return state.rpartition(")")[2].split()[0] != "Z"


def lose_a_peer(run_dir: RunDir) -> None:
    error = GpuFault("a peer was lost")
    record = WorkerError(
        code=81, cause=error.cause, fix="", rank=int(RANK), time=time.time(), traceback="", secondary=True
    )
    write_json(run_dir.error(int(RANK)), record)
    os._exit(1)


def _is(what: str) -> bool:
    return os.environ.get(f"FAKE_{what}") == RANK


if __name__ == "__main__":
    launch(int(sys.argv[2])) if len(sys.argv) > 2 else keep(RunDir(Path(sys.argv[1])))
