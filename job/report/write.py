"""All reports of a run, into its RunDir."""

from pathlib import Path

from job.report.dataset import make_dataset_report
from job.report.made import Made
from job.report.metrics import make_metrics
from job.report.model_card import model_card
from job.rundir import RunDir, flush_files, write_bytes, write_json


def write_reports(made: Made, place: tuple[str, str], run_dir: RunDir, metrics_path: Path) -> None:
    """Model card, dataset report, and last the metrics, at *metrics_path*. *place*: where the adapter will lie, as
    `model_card` is told."""
    metrics = make_metrics(made)
    write_bytes(run_dir.adapter / "README.md", model_card(metrics, *place).encode())
    report = make_dataset_report(made.spec, made.prepared, made.dataset_revisions, made.plan)
    write_json(run_dir.dataset_report, report)
    flush_files(run_dir.adapter)
    write_json(metrics_path, metrics)
