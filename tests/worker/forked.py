"""``accelerate launch`` from a process that has imported everything before: that takes ten times as long as a few steps
of a tiny model, in the launcher and in each rank.

All else is as in a job. Accelerate reads its arguments and its config file, its launcher or torchrun's agent starts the
ranks and waits for them, and these are processes of their own; only they begin as a fork that has its modules.
"""

import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from job.signals import die_with_parent
from job.train.keeper import STOPPERS

LAUNCHER = "accelerate.commands.launch"
_BEFORE = (LAUNCHER, "torch.distributed.run", "job.train.story", "job.train.faults")
_FOR_A_START_S = 120.0


class Nursery:
    """A process that has imported what ranks need, from which launchers are forked, one at a time."""

    def __init__(self, env: Mapping[str, str], modules: Sequence[str], *, bitsandbytes: bool) -> None:
        self._command = [sys.executable, "-m", "tests.worker.forked", str(int(bitsandbytes)), *_BEFORE, *modules]
        self._env = dict(env)
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            self._command, env=self._env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            preexec_fn=die_with_parent,
        )  # fmt: skip

    def launch(
        self, command: Sequence[str], env: Mapping[str, str], cwd: Path, timeout: float
    ) -> "subprocess.CompletedProcess[str]":
        """As ``subprocess.run``, of a *command* that `job.launch` made, with both streams in one.

        Raises:
            subprocess.TimeoutExpired: it is killed, and the nursery with it.
        """
        if self._process.poll() is not None:  # as by a test of what the job leaves of its children: nothing
            self._start()
        with tempfile.NamedTemporaryFile("r+") as output:
            order = {"command": list(command), "env": dict(env), "cwd": str(cwd), "output": output.name}
            self._process.stdin.write(json.dumps(order) + "\n")
            if not select.select([self._process.stdout], [], [], timeout + _FOR_A_START_S)[0]:
                self._process.kill()
                raise subprocess.TimeoutExpired(order["command"], timeout, Path(output.name).read_text())
            status = int(self._process.stdout.readline())
            return subprocess.CompletedProcess(order["command"], status, Path(output.name).read_text())


class _Waiting:
    """A fork that waits to become a rank."""

    def __init__(self) -> None:
        read, self._write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            die_with_parent()
            os.close(self._write)
            with os.fdopen(read) as orders:
                args, env = json.loads(orders.readline())
            os.setsid()
            _become(args, env)

    def run(self, args: Sequence[str], env: Mapping[str, str]) -> None:
        os.write(self._write, json.dumps([list(args), dict(env)]).encode() + b"\n")


_waiting: list[_Waiting] = []


class _Forked(subprocess.Popen):  # type: ignore[type-arg]
    """``python -m MODULE`` is done by one that waits."""

    def __init__(self, args: Sequence[str], *, env: Mapping[str, str] | None = None, **settings: Any) -> None:
        self._env = os.environ if env is None else env
        super().__init__(args, env=env, **settings)

    def _execute_child(self, args: Sequence[str], *others: Any) -> None:
        if "-m" not in args:
            super()._execute_child(args, *others)
            return
        rank = _waiting.pop()
        rank.run(args[args.index("-m") + 1 :], self._env)
        self.pid, self._child_created = rank.pid, True


def _become(args: Sequence[str], env: Mapping[str, str]) -> None:
    """Do what ``python -m`` *args* would. Does not return."""
    os.environ.clear()
    os.environ.update(env)
    sys.argv = list(args)
    status = 0
    try:
        runpy.run_module(args[0], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _launch(command: list[str], env: dict[str, str], cwd: str, output: str) -> None:
    """Be the launcher. Does not return."""
    die_with_parent()
    nothing, told = os.open(os.devnull, os.O_RDONLY), os.open(output, os.O_WRONLY | os.O_APPEND)
    for stream, file in enumerate((nothing, told, told)):
        os.dup2(file, stream)
    os.chdir(cwd)
    # Here, where no agent's threads are yet.
    _waiting.extend(_Waiting() for _ in range(int(command[command.index("--num_processes") + 1])))
    subprocess.Popen = _Forked  # type: ignore[misc]
    importlib.import_module(
        "torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler"
    ).Popen = _Forked
    _become(command[command.index("-m") + 1 :], env | {"GRAFT_SUPERVISOR_PID": str(os.getppid())})


def main() -> None:
    if not int(sys.argv[1]):
        sys.modules["bitsandbytes"] = None  # type: ignore[assignment]
    for module in sys.argv[2:]:
        importlib.import_module(module)
    threads = [thread.joinpath("comm").read_text().strip() for thread in Path("/proc/self/task").iterdir()]
    # A fork has but one thread. pyarrow's allocator knows that, and starts its own again.
    assert len(threads) - threads.count("jemalloc_bg_thd") == 1, threads
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPERS)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _launch(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
