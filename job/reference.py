"""The reference pages, generated from the code: settings, exit codes, and the fields of the published files."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import job.errors
from job.environment import variable
from job.errors import ERROR_CLASSES
from job.records import AddedTokens, CurveFinding, Findings, Record, Score
from job.report.dataset import DatasetReport, SplitReport
from job.report.metrics import BaseModelMetrics, DataMetrics, EvalMetrics, Metrics, TokenizerMetrics, TrainMetrics
from job.settings import SECTIONS

_RETRY = {
    "never": "no",
    "counted": "yes, counted",
    "uncounted": "yes, uncounted",
    "other_host": "yes, on another host",
    "operator": "the operator's choice",
}

_SECRETS = """## Credentials

They are read by the SDKs themselves and never enter the spec, the logs or anything that is published.

| variable | read by | for |
|---|---|---|
| `HF_TOKEN`, `HF_TOKEN_PATH` (a file) | huggingface_hub | private and gated models and datasets, Hub outputs |
| `HF_ENDPOINT` | huggingface_hub | another Hub |
| `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN` | boto3 | `s3://` |
| `AWS_SHARED_CREDENTIALS_FILE`, `AWS_WEB_IDENTITY_TOKEN_FILE` (files) | boto3 | `s3://` |
| `AWS_ENDPOINT_URL`, `AWS_DEFAULT_REGION` | boto3 | S3-compatible stores |
"""

_GRAMMAR = """# Environment

Generated from `job/settings/` by `make generate`.

The variable is `JOB_` and the field's name in capitals. Empty means unset. Booleans are true, false, 1 or 0. Lists are
separated by commas (a comma inside a URI is `%2C`), maps are `a=b,c=d`. A name that does not exist is an error, so that
a misspelt setting never trains with its default; names that platforms inject (`JOB_COMPLETION_INDEX`, `JOB_ID`,
`JOB_NAME`, `JOB_*_PORT`, `JOB_*_SERVICE_HOST`) are ignored. `JOB_SPEC_URI` names a YAML or JSON file (`s3://`, `hf://`
or a path) with the same fields in lower case; the environment overrides it.

Settings marked ● change the numbers and make up the run's fingerprint: the same ones at the same output are the same
run.
"""


def environment_markdown() -> str:
    """One table for each group of settings, one row per setting, with its default and the reason for it."""
    tables = [f"## {title}\n\n{_settings_table(section)}" for title, section in SECTIONS.items()]
    return "\n".join([_GRAMMAR, *tables, _SECRETS])


def _settings_table(section: type[BaseModel]) -> str:
    rows = ["| variable | default | meaning | why this default | |", "|---|---|---|---|---|"]
    for name, info in section.model_fields.items():
        extra: dict[str, Any] = info.json_schema_extra  # type: ignore[assignment]
        mark = "●" if extra["changes_result"] else ""
        rows.append(
            f"| `{variable(name)}` | {_default(name, info.default)} | {_cell(info.description or '')} "
            f"| {_cell(extra['why'])} | {mark} |"
        )
    return "\n".join(rows) + "\n"


def exit_codes_markdown() -> str:
    """One table row per class of `job/errors.py`."""
    meaning = {line.split()[1]: line.split(maxsplit=4)[4] for line in _tree_lines()}
    rows = ["# Exit codes", "", "Generated from `job/errors.py` by `make generate`.", ""]
    rows += ["| code | class | meaning | retry |", "|---|---|---|---|"]
    rows.append("| 0 | | manifest committed and verified in every output | |")
    rows += [f"| {c.exit_code} | {c.__name__} | {meaning[c.__name__]} | {_RETRY[c.retry]} |" for c in ERROR_CLASSES]
    return "\n".join(rows) + "\n"


def metrics_markdown() -> str:
    """One table per record of ``metrics.json``."""
    head = "# metrics.json\n\nGenerated from `job/report/metrics.py` by `make generate`.\n"
    tail = "`plan`, `hardware` and `proof` are the records of the same name in `job/records/`.\n"
    return "\n".join([head, *_tables(_METRICS_TABLES), tail])


def dataset_report_markdown() -> str:
    """One table per record of ``dataset_report.json``."""
    head = "# dataset_report.json\n\nGenerated from `job/report/dataset.py` by `make generate`.\n"
    return "\n".join([head, *_tables(_DATASET_TABLES)])


def _tables(records: dict[str, type[Record]]) -> list[str]:
    tables = []
    for title, record in records.items():
        rows = [f"| `{name}` | {_cell(info.description or '')} |" for name, info in record.model_fields.items()]
        tables.append("\n".join([f"## {title}\n", "| field | meaning |", "|---|---|", *rows, ""]))
    return tables


_METRICS_TABLES: dict[str, type[Record]] = {
    "The file": Metrics,
    "base_model": BaseModelMetrics,
    "tokenizer": TokenizerMetrics,
    "added_tokens": AddedTokens,
    "data": DataMetrics,
    "train": TrainMetrics,
    "eval": EvalMetrics,
    "scores": Score,
    "curve": CurveFinding,
}
_DATASET_TABLES: dict[str, type[Record]] = {
    "The file": DatasetReport,
    "train and eval": SplitReport,
    "findings": Findings,
}


def _tree_lines() -> list[str]:
    text = inspect.getdoc(job.errors) or ""
    return [line for line in text.splitlines() if line.strip().startswith(("├──", "└──"))]


def _default(name: str, value: Any) -> str:
    if value is PydanticUndefined or name in ("dataset_uri", "output_uri"):
        return "required"
    if value is None or value in ({}, ()):
        return ""
    if isinstance(value, tuple):
        value = ",".join(value)
    if isinstance(value, bool):
        value = str(value).lower()
    return f"`{value if not isinstance(value, Path) else value.as_posix()}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


PAGES: dict[str, Callable[[], str]] = {
    "environment.md": environment_markdown,
    "exit-codes.md": exit_codes_markdown,
    "metrics.md": metrics_markdown,
    "dataset-report.md": dataset_report_markdown,
}
