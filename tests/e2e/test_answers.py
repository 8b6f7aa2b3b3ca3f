"""Held-out rows answered by base and adapter through the entrypoint: scores everywhere, and a score that rejects."""

import json

import pytest

from tests.e2e.job import run

pytestmark = pytest.mark.slow

ASKED = {"JOB_EVAL_FRACTION": "0.3", "JOB_EVAL_GENERATE": "8", "JOB_EVAL_MAX_NEW_TOKENS": "8"}


def test_what_falls_short_is_rejected_and_judged_anew_by_other_settings(env, tmp_path):
    """Four steps teach no sums, so every score of numbers is about nothing."""
    output = tmp_path / "output"
    strict = env | ASKED | {"JOB_MIN_SCORE": "numeric_answer=0.9"}

    rejected = run(strict)

    assert rejected.code == 92, rejected.shown
    assert rejected.outcome["status"] == "rejected"
    assert "over 8 held-out answers" in rejected.outcome["cause"]
    assert "below JOB_MIN_SCORE=numeric_answer=0.9" in rejected.outcome["cause"]
    assert not (output / "manifest.json").exists()
    assert (output / "rejected" / "adapter_model.safetensors").exists()

    again = run(strict)

    assert (again.code, "has been rejected before" in again.outcome["cause"]) == (92, True), again.shown
    assert "training:" not in again.shown

    anew = run(env | ASKED | {"JOB_EVAL_GENERATE": "12", "JOB_EVAL_SCORERS": "numeric_answer,rouge_l"})

    assert anew.code == 0, anew.shown
    assert "training:" not in anew.shown, "it was trained again"
    assert "of 12 answers" in anew.shown
    metrics = json.loads((output / "metrics.json").read_text())
    assert [score["scorer"] for score in metrics["eval"]["scores"]] == ["numeric_answer", "rouge_l"]
    assert not (output / "rejected").exists()
    assert "| rouge_l |" in (output / "adapter" / "README.md").read_text()
    page = (output / "report.html").read_text()
    assert "Base against tuned" in page
    assert "The first 12 of 12" in page or "All of them." in page
    assert "The first rows, as the model sees them" in page
