"""Programs of a rented machine, each a few lines that write down how they were called."""

import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Fake = Callable[[str, str], None]


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder for the PATH; each call of a program in it is a line of ``calls``."""
    (folder := tmp_path / "bin").mkdir()
    return folder


@pytest.fixture
def fake(programs: Path) -> Fake:
    """Makes the program *name*, which writes down its call and then does *then*."""

    def make(name: str, then: str = "") -> None:
        path = programs / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> {programs.parent}/calls\n{then}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return make


@pytest.fixture
def calls(tmp_path: Path) -> Callable[[], list[str]]:
    """What has been called so far, in order."""

    def read() -> list[str]:
        log = tmp_path / "calls"
        return log.read_text().splitlines() if log.exists() else []

    return read


@pytest.fixture
def env(programs: Path) -> dict[str, str]:
    """The machine's environment, in which only its own programs and a few plain tools are found."""
    for tool in ("cat", "cp", "dirname", "install", "rm", "sed", "sleep"):
        found = shutil.which(tool)
        assert found
        (programs / tool).symlink_to(found)
    return {"PATH": str(programs), "GRAFT_PYTHON": sys.executable}
