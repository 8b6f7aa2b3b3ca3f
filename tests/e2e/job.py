"""Starts the program as its user would: one process, an environment, an exit code."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.tiny import ROOT


@dataclass(frozen=True)
class Ended:
    code: int
    outcome: dict[str, Any]
    shown: str  # stderr
    printed: str  # stdout
    seconds: float


def start(env: dict[str, str], *argv: str) -> "subprocess.Popen[str]":
    """The entrypoint, with this process's environment (where the SDKs find the test servers) and *env*."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("JOB_")}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "entrypoint.py"), *argv],
        cwd=ROOT, env=clean | env, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def end(process: "subprocess.Popen[str]", began: float, timeout_s: float = 180) -> Ended:
    out, err = process.communicate(timeout=timeout_s)
    outcome = json.loads(out.splitlines()[-1])
    assert outcome["code"] == process.returncode, "the last line of stdout says another code than the exit status"
    return Ended(process.returncode, outcome, err, out, time.monotonic() - began)


def run(env: dict[str, str]) -> Ended:
    began = time.monotonic()
    return end(start(env), began)


def run_and_signal(env: dict[str, str], when: Callable[[], bool], number: signal.Signals) -> Ended:
    """Run, and send *number* once *when* holds."""
    return run_and_act(env, when, lambda process: process.send_signal(number))


def run_and_act(
    env: dict[str, str], when: Callable[[], bool], act: Callable[["subprocess.Popen[str]"], object]
) -> Ended:
    """Run, and do *act* with the process once *when* holds; the seconds are those from then on."""
    began = time.monotonic()
    process = start(env)
    while not when():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - began < 120, "the moment to act never came"
        time.sleep(0.05)
    acted = time.monotonic()
    act(process)
    return end(process, acted)


def logged(work_dir: Path, event: str) -> bool:
    """Whether any run under *work_dir* has logged *event*."""
    return any(f'"event": "{event}"' in log.read_text() for log in work_dir.glob("runs/*/log.jsonl"))
