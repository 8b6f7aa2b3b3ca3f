"""Damaged files through the entrypoint: an exit code of the contract, the file and the line, and never a traceback."""

import gzip
import json
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.corruption import ROWS, damage_bytes, damage_row, whole_files, zst
from tests.e2e.job import start
from tests.thorough import some

pytestmark = pytest.mark.slow

AT_ONCE = 2  # processes
SOUND_ROWS = 6


@dataclass(frozen=True)
class Damaged:
    """A file with damage; *line* where it is in one row."""

    name: str
    content: bytes
    line: int | None = None


def row_files(seed: int, formats: list[str]) -> list[Damaged]:
    """JSON Lines with one damaged row among sound ones, which is not the first: by that one the format is known."""
    rng, files = random.Random(seed), []
    for number, format_ in enumerate(formats):
        at = rng.randrange(1, SOUND_ROWS)
        rows = [json.dumps(ROWS[format_][0])] * SOUND_ROWS
        rows[at] = damage_row(rng, format_)
        files.append(Damaged(f"{number}.jsonl", "\n".join(rows).encode(), line=at + 1))
    return files


def byte_files(seed: int) -> list[Damaged]:
    """Files of every kind with damaged bytes."""
    rng = random.Random(seed)
    lines = (json.dumps(ROWS["chat"][0]) + "\n").encode() * SOUND_ROWS
    array = json.dumps([ROWS["chat"][0]] * SOUND_ROWS).encode()
    tables = {name: content for name, content in whole_files().items() if name in ("a.csv", "b.parquet", "b.arrow")}
    whole = tables | {
        "c.jsonl": lines, "c.json": array, "c.jsonl.gz": gzip.compress(lines), "c.jsonl.zst": zst(lines),
        "c.json.zst": zst(array), "c.csv.gz": gzip.compress(tables["a.csv"]),
    }  # fmt: skip
    return [Damaged(name, damage_bytes(rng, content)) for name, content in whole.items()]


def ended(damaged: Damaged, env: dict[str, str], folder: Path, *argv: str) -> tuple[int, list[str]]:
    """The exit status over *damaged*, and what is wrong with how the program ends."""
    folder.mkdir()
    (folder / damaged.name).write_bytes(damaged.content)
    own = {"JOB_DATASET_URI": folder / damaged.name, "JOB_OUTPUT_URI": folder / "out", "JOB_WORK_DIR": folder / "work"}
    settings = env | {name: str(path) for name, path in own.items()}
    process = start(settings, *argv)
    out, shown = process.communicate(timeout=180)
    outcome: dict[str, Any] = json.loads(out.splitlines()[-1])
    found = []
    if process.returncode not in (0, 65) or outcome["code"] != process.returncode:
        found.append(f"exit status {process.returncode}, outcome {outcome}")
    if "Traceback" in out + shown:
        found.append(shown[-2000:])
    if process.returncode == 65 and damaged.name not in outcome["cause"]:
        found.append(f"no file: {outcome['cause']}")
    if process.returncode == 65 and damaged.line and f"{damaged.name}:{damaged.line}: " not in outcome["cause"]:
        found.append(f"not line {damaged.line}: {outcome['cause']}")
    return process.returncode, [f"{damaged.name} ({' '.join(argv) or 'run'}): {what}" for what in found]


@pytest.fixture
def any_rows(env):
    """Settings under which the length of a row is no reason to refuse it."""
    del env["JOB_COLUMNS"]
    return env | {"JOB_STRATEGY": "cpu", "JOB_ALLOW": "truncation,nothing_to_learn", "JOB_MAX_STEPS": "2"}


def assert_all_end_well(cases: list[tuple[Damaged, dict[str, str], tuple[str, ...]]], folder: Path) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ends = [
            pool.submit(ended, damaged, env, folder / str(number), *argv)
            for number, (damaged, env, argv) in enumerate(cases)
        ]
        codes, found = zip(*(end.result() for end in ends), strict=True)
    assert [problem for problems in found for problem in problems] == []
    assert set(codes) == {0, 65}, "the damage was not real, or always fatal"


# Of whose byte_files every so many are tried, beside a row of each format.
EVERY_THIRD, ALL = (3, 3), (4, 1)


@pytest.mark.parametrize(("seed", "every"), some([EVERY_THIRD, ALL], always=[EVERY_THIRD]))
def test_a_check_of_damaged_files_ends_with_their_place(any_rows, tmp_path, seed, every):
    files = row_files(seed, ["sharegpt", "chat", "strings", "alpaca", "text"]) + byte_files(seed)[::every]

    assert_all_end_well([(damaged, any_rows, ("check",)) for damaged in files], tmp_path)


def test_a_run_over_damaged_files_ends_with_their_place(any_rows, tmp_path):
    files = row_files(6, ["sharegpt", "strings"]) + byte_files(7)[:2]
    skipping = any_rows | {"JOB_BAD_ROWS": "skip", "JOB_MAX_BAD_FRACTION": "0.5"}

    assert_all_end_well([*((damaged, any_rows, ()) for damaged in files), (files[0], skipping, ())], tmp_path)
