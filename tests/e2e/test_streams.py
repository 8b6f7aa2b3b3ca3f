"""Nobody reads what the job says, or it cannot be said: the run and its exit status stay what they are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import ROOT

REFUSED = {"JOB_MODEL": "/nowhere/model"}


def say_to(env: dict[str, str], redirection: str) -> "subprocess.CompletedProcess[bytes]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("JOB_")}
    command = f'"{sys.executable}" "{ROOT / "entrypoint.py"}" {redirection}'
    return subprocess.run(["bash", "-c", command], env=clean | env, capture_output=True, timeout=180)


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
def test_the_outcome_is_told_although_nothing_else_can_be(env, redirection):
    ended = say_to(env | REFUSED, redirection)

    assert ended.returncode == 66
    assert json.loads(ended.stdout)["code"] == 66


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", ">/dev/full 2>/dev/full"])
def test_an_outcome_that_cannot_be_told_is_the_exit_status_all_the_same(env, redirection):
    ended = say_to(env | REFUSED, redirection)

    assert (ended.returncode, ended.stdout) == (66, b"")


def test_a_name_that_is_not_utf_8_is_told_as_far_as_it_can_be(env):
    ended = say_to(env | {"JOB_MODEL": os.fsdecode(b"/nowhere/\xff")}, "")

    assert ended.returncode == 66
    assert "/nowhere/?" in json.loads(ended.stdout)["cause"]


@pytest.mark.slow
def test_a_run_whose_log_is_full_trains_and_publishes(env, tmp_path: Path):
    ended = say_to(env, "2>/dev/full")

    assert ended.returncode == 0
    assert (tmp_path / "output" / "manifest.json").exists()
    assert json.loads((tmp_path / "output" / "attempts" / "0001" / "outcome.json").read_bytes())["code"] == 0
