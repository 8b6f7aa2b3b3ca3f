"""All reports of a run, into its RunDir."""

import contextlib
import json
from pathlib import Path

from pydantic import ValidationError

from job.records import CurveFinding
from job.report.dataset import make_dataset_report
from job.report.made import Made
from job.report.metrics import make_metrics
from job.report.model_card import model_card
from job.report.page import page
from job.rundir import RunDir, flush_files, write_bytes, write_json


def write_reports(made: Made, place: tuple[str, str], run_dir: RunDir, metrics_path: Path) -> None:
    """Model card, dataset report, ``report.html``, and last the metrics, at *metrics_path*. *place*: where the adapter
    will lie, as `model_card` is told."""
    metrics = make_metrics(made)
    write_bytes(run_dir.adapter / "README.md", model_card(metrics, *place).encode())
    report = make_dataset_report(made.spec, made.prepared, made.dataset_revisions, made.plan)
    write_json(run_dir.dataset_report, report)
    write_bytes(run_dir.report, page(made, metrics).encode())
    flush_files(run_dir.adapter)
    write_json(metrics_path, metrics)


def reported_curve(metrics_path: Path) -> list[CurveFinding]:
    """What the metrics at *metrics_path* say of the curve; nothing if another version has written them, which had
    trained and could not publish: the result is no worse for it."""
    findings = json.loads(metrics_path.read_bytes()).get("curve", [])
    with contextlib.suppress(ValidationError):
        return [CurveFinding.model_validate(finding) for finding in findings]
    return []
