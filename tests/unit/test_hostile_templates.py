"""Chat templates that are up to no good: each ends in `BadData` within seconds, whatever it does to its process.

A template is a program out of a stranger's repository. It runs here in a process that can be killed from outside, as
some of these hang in C code, where no signal handler is run.
"""

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from job.errors import BadData
from job.prepare.story import prepare
from job.records import GateSettings, Prepared
from job.rundir import read_record
from tests.tiny import ROOT
from tests.unit.conftest import CHATML, MakeTokenizer
from tests.unit.test_prepare import task

pytestmark = pytest.mark.slow

LIMIT_S = 15.0
PATIENCE_S = 30.0  # then the process is killed and the test fails
MEMORY_GIB = 2.0  # resident, of the process and of each of its children
WALL_GIB = 8  # of address space, where the test itself stops a process, to spare the machine

# Each is written in the place of a text.
ENDLESS = {
    "nested ranges": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "nested ranges that write": "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "nested filters": "{% for a in range(9999) %}{{ (range(99999) | sort(reverse=true)) | length }}{% endfor %}",
    "macros that call twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) ~ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    # Of the number of turns, or the compiler would work it out before there is a row.
    "a huge power": "{{ (10 ** (10 ** 7 * messages | length)) % 7 }}",
}
GIANT = {
    "doubled text": "{% set n = namespace(s='a') %}{% for i in range(40) %}{% set n.s = n.s*2 %}{% endfor %}{{ n.s }}",
    "multiplied text": "{{ 'a' * 10 ** 10 }}",
    "a multiplied list": "{{ ([0] * 10 ** 9) | length }}",
    "a wide number": "{{ '%1000000000d' % 1 }}",
    "a wide format": "{{ '{:>9999999999}'.format(1) }}",
    "centred text": "{{ 'a' | center(9999999999) }}",
    "indented lines": "{{ ('\n' * 99999) | indent(99999, blank=true) }}",
    "replaced text": "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
    "joined text": "{{ ([messages[0]['content'] * 9999] * 99999) | join }}",
    "giant output": "{% for a in range(9999) %}{{ 'x' * 99999 }}{% endfor %}",
}
FORBIDDEN = {
    "macros that call themselves": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "classes by name": "{{ ('' | attr('__class__')).mro() }}",
    "classes by format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "globals": "{{ raise_exception.__globals__['os'] }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import '/etc/passwd' as p %}{{ p }}",
    "an error": "{{ raise_exception('not today') }}",
    "an error of Python's": "{{ 1 / 0 }}",
    "a row that is changed": "{% set _ = messages.append(messages) %}",
}
UNREADABLE = {
    "a loop that does not end": "{% for m in messages %}",
    "an unknown filter": "{{ messages | nonsense }}",
    "deep brackets": "{{ " + "(" * 5000 + ")" * 5000 + " }}",
}


@dataclass(frozen=True)
class Ended:
    """How a preparation ended: its result, or the code and the cause of its refusal."""

    prepared: Prepared | None
    code: int
    cause: str
    seconds: float
    memory_gib: float


def run(out: Path, tokenizer: Path, rows: list[dict[str, Any]], bad_rows: str = "fail") -> Ended:
    """``python -m job.prepare`` over *rows*, as a job starts it."""
    gate = GateSettings(bad_rows=bad_rows, max_bad_fraction=0.5, allow=("untrained_end",))
    job = task(out, tokenizer, "\n".join(map(json.dumps, rows)), gate=gate, max_length=4096)
    (out / "task.json").write_text(job.model_dump_json())
    process = subprocess.Popen(
        [sys.executable, "-m", "job.prepare", "rows", out / "task.json", out],
        cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (WALL_GIB * 2**30,) * 2),
    )  # fmt: skip
    seconds, memory_gib = await_end(process)
    if (out / "prepared.json").exists():
        return Ended(read_record(out / "prepared.json", Prepared), 0, "", seconds, memory_gib)
    assert (out / "error.json").exists(), f"the process died and left no word: {process.returncode}"
    error = json.loads((out / "error.json").read_text())
    return Ended(None, error["code"], error["cause"], seconds, memory_gib)


def await_end(process: "subprocess.Popen[bytes]") -> tuple[float, float]:
    """Seconds that *process* took, and the most memory that it or a child of its held."""
    began, memory_gib = time.monotonic(), 0.0
    while True:
        memory_gib = max([memory_gib, *peaks_gib(process.pid)])
        seconds = time.monotonic() - began
        if process.poll() is not None:
            return seconds, memory_gib
        if seconds > PATIENCE_S:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            pytest.fail(f"it was still at work after {PATIENCE_S:.0f} s")
        time.sleep(0.02)


def peaks_gib(pid: int) -> Iterator[float]:
    """The most memory that process *pid* and each child of its has held so far. Not what wait4 says, which counts what
    pytest held when it forked."""
    with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        process = psutil.Process(pid)
        for one in [process, *process.children()]:
            if peak := re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{one.pid}/status").read_text()):
                yield int(peak[1]) / 2**20


def chat(asked: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": "an answer"}]}


def pair(asked: str) -> dict[str, Any]:
    question, answer = chat(asked)["messages"]
    return {"prompt": [question], "completion": [answer]}


def in_rows_that_say_boom(harm: str) -> str:
    return "{% if 'boom' in messages[0]['content'] %}" + harm + "{% endif %}" + CHATML


def assert_refused(ended: Ended, row: str) -> None:
    assert ended.code == 65, ended.cause
    assert "chat template" in ended.cause
    assert row in ended.cause
    assert len(ended.cause) < 2000
    assert ended.seconds < LIMIT_S
    assert ended.memory_gib < MEMORY_GIB


@pytest.mark.parametrize("name", [*FORBIDDEN, *UNREADABLE])
def test_what_a_template_must_not_do_is_refused_with_the_first_row(tmp_path, make_tokenizer: MakeTokenizer, name):
    tokenizer = make_tokenizer((FORBIDDEN | UNREADABLE)[name] + CHATML)

    with pytest.raises(BadData, match=r"rows\.jsonl:1: the chat template of JOB_MODEL refuses this row"):
        prepare(task(tmp_path, tokenizer, json.dumps(chat("hello"))), tmp_path)


@pytest.mark.parametrize("name", [*ENDLESS, *GIANT])
def test_a_template_that_does_harm_in_one_row_is_refused_with_that_row(tmp_path, make_tokenizer: MakeTokenizer, name):
    tokenizer = make_tokenizer(in_rows_that_say_boom((ENDLESS | GIANT)[name]))

    assert_refused(run(tmp_path, tokenizer, [chat("hello"), chat("boom"), chat("bye")]), "rows.jsonl:2: ")


@pytest.mark.parametrize("name", ["nested ranges", "a wide number"])
def test_a_template_that_always_does_harm_is_refused_with_the_first_row(tmp_path, make_tokenizer: MakeTokenizer, name):
    tokenizer = make_tokenizer((ENDLESS | GIANT)[name] + CHATML)

    assert_refused(run(tmp_path, tokenizer, [chat("hello")]), "rows.jsonl:1: ")


@pytest.mark.parametrize("name", ["nested ranges", "doubled text"])
def test_rows_with_prompt_and_completion_are_guarded_too(tmp_path, make_tokenizer: MakeTokenizer, name):
    tokenizer = make_tokenizer(in_rows_that_say_boom((ENDLESS | GIANT)[name]))

    assert_refused(run(tmp_path, tokenizer, [pair("hello"), pair("boom")]), "rows.jsonl:2: ")


@pytest.mark.parametrize("name", ["nested ranges", "doubled text"])
def test_what_costs_too_much_once_is_not_tried_on_more_rows_where_bad_ones_are_skipped(
    tmp_path, make_tokenizer: MakeTokenizer, name
):
    """One bad row in a hundred may be skipped: of a million rows, seconds each would be a day."""
    tokenizer = make_tokenizer(in_rows_that_say_boom((ENDLESS | GIANT)[name]))

    ended = run(tmp_path, tokenizer, [chat("hello"), chat("boom"), chat("boom"), chat("bye")], bad_rows="skip")

    assert_refused(ended, "rows.jsonl:2: ")


def test_the_rows_after_one_that_it_refuses_are_prepared_where_bad_rows_are_skipped(
    tmp_path, make_tokenizer: MakeTokenizer
):
    tokenizer = make_tokenizer(in_rows_that_say_boom(FORBIDDEN["an error"]))

    ended = run(tmp_path, tokenizer, [chat("hello"), chat("boom"), chat("bye")], bad_rows="skip")

    assert ended.prepared, ended.cause
    assert (ended.prepared.train.rows, ended.prepared.findings.bad_rows) == (2, 1)
    assert "rows.jsonl:2: " in ended.prepared.findings.first_bad_rows[0]


def test_a_template_that_is_only_busy_is_rendered(tmp_path, make_tokenizer: MakeTokenizer):
    """The limits are for what no honest template needs."""
    busy = "{% for i in range(20000) %}{{ 'x' if i % 100 == 0 else '' }}{% endfor %}" + CHATML

    ended = run(tmp_path, make_tokenizer(busy), [chat("hello"), chat("x" * 500_000)])

    assert ended.prepared, ended.cause
    assert ended.prepared.train.rows == 1, "the other is cut before its answer begins"
