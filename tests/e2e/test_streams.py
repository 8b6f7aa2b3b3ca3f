"""Nobody reads what the job says, or it cannot be written: the job does what it would have done, and ends the same."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.thorough import some
from tests.tiny import ROOT

BAD = {"JOB_SEED": "many", "JOB_MODEL": "org/m", "JOB_DATASET_URI": "org/d", "JOB_OUTPUT_URI": "/out"}
FULL, UNREAD = "a full disk", "a reader that has died"


def entrypoint(env: dict[str, str], *argv: str, **streams: IO[str] | int) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("JOB_")}
    return subprocess.run(
        [sys.executable, str(ROOT / "entrypoint.py"), *argv], env=clean | env, stdin=subprocess.DEVNULL, text=True,
        timeout=180, **streams,
    )  # fmt: skip


@pytest.fixture(params=[FULL, UNREAD])
def nowhere(request: pytest.FixtureRequest) -> Iterator[IO[str]]:
    """Where nothing can be written."""
    if request.param == FULL:
        with Path("/dev/full").open("w") as stream:
            yield stream
    else:
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "w") as stream:
            yield stream


def test_an_outcome_stands_on_stdout_although_stderr_cannot_be_written(nowhere):
    ended = entrypoint(BAD, stdout=subprocess.PIPE, stderr=nowhere)

    assert (ended.returncode, json.loads(ended.stdout.splitlines()[-1])["code"]) == (78, 78)


def test_an_exit_code_is_what_it_is_although_stdout_cannot_be_written(nowhere):
    ended = entrypoint(BAD, stdout=nowhere, stderr=subprocess.PIPE)

    assert ended.returncode == 78
    assert "JOB_SEED=many" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_job_that_was_started_without_streams_ends_as_it_would_with_them(tmp_path):
    script = '"$0" "$1" >&- 2>&-; echo $?'
    clean = {name: value for name, value in os.environ.items() if not name.startswith("JOB_")}

    ended = subprocess.run(
        ["sh", "-c", script, sys.executable, str(ROOT / "entrypoint.py")],
        env=clean | BAD,
        capture_output=True,
        text=True,
    )

    assert ended.stdout == "78\n"


def test_a_value_that_is_no_utf8_is_refused_as_any_other_is(env):
    odd = {"JOB_MODEL": os.fsdecode(b"/m/\xff")}

    ended = entrypoint(env | odd, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    outcome = json.loads(ended.stdout.splitlines()[-1])
    assert (ended.returncode, outcome["code"]) in ((66, 66), (78, 78)), ended.stderr
    assert "/m/\\udcff" in outcome["cause"]


@pytest.mark.slow
@pytest.mark.parametrize("nowhere", some([FULL, UNREAD], always=[UNREAD]), indirect=True)
def test_a_log_that_cannot_be_written_changes_nothing_about_a_run(env, nowhere, tmp_path):
    ended = entrypoint(env, stdout=subprocess.PIPE, stderr=nowhere)

    assert ended.returncode == 0, ended.stdout
    assert (tmp_path / "output" / "manifest.json").exists()


def test_an_outcome_is_utf_8_in_any_locale(env):
    ended = subprocess.run(
        [sys.executable, str(ROOT / "entrypoint.py")],
        env=os.environ | env | {"JOB_MODEL": "/m/模型", "PYTHONIOENCODING": "latin-1"},
        stdin=subprocess.DEVNULL, capture_output=True,
    )  # fmt: skip

    assert "/m/模型" in json.loads(ended.stdout.decode().splitlines()[-1])["cause"]
