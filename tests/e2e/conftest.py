import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny import write_model, write_rows


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 64)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, rows: Path) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), rows)


@pytest.fixture
def env(tmp_path: Path, rows: Path, tiny_model: Path) -> dict[str, str]:
    """A job that succeeds within seconds on a CPU: all local, four steps."""
    return {
        "JOB_MODEL": str(tiny_model),
        "JOB_DATASET_URI": str(rows),
        "JOB_COLUMNS": "prompt=question,completion=answer",
        "JOB_OUTPUT_URI": str(tmp_path / "output"),
        "JOB_WORK_DIR": str(tmp_path / "work"),
        "JOB_MAX_STEPS": "4",
        "JOB_GLOBAL_BATCH_SIZE": "8",
        "JOB_MAX_LENGTH": "256",
        "JOB_LEARNING_RATE": "1e-2",
        "JOB_PACKING": "false",
    }


@pytest.fixture
def large_model(tmp_path: Path) -> Path:
    """An 8B model as far as headers tell: 16 GB of weights that take no space on the disk."""
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "tokenizer.json").write_text("{}")
    tensor = {"dtype": "BF16", "shape": [8_000_000_000], "data_offsets": [0, 16_000_000_000]}
    header = json.dumps({"weight": tensor}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 16_000_000_000)
    return folder


@pytest.fixture
def bad_rows(tmp_path: Path) -> Callable[[str], str]:
    """Writes a dataset with the given content and returns its path."""

    def write(content: str) -> str:
        (tmp_path / "bad.jsonl").write_text(content)
        return str(tmp_path / "bad.jsonl")

    return write
