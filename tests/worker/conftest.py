from pathlib import Path

import pytest

from tests.tiny import write_model, write_rows


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, rows: Path) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), rows)
