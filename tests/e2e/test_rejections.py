"""An adapter that is not what was trained is no result, however often the job is run."""

import json
import shutil

import pytest

from job.report.metrics import Metrics
from tests.e2e.job import run
from tests.tiny import ROOT

pytestmark = pytest.mark.slow


def test_an_adapter_that_has_lost_a_layer_is_set_apart_and_stays_rejected(env, tmp_path):
    output = tmp_path / "output"
    fault = {"FAKE_FAULT": "lost@1", "PYTHONPATH": str(ROOT / "tests" / "fakes" / "faults")}

    ended = run(env | fault)

    assert ended.code == 92, ended.shown
    assert (ended.outcome["status"], ended.outcome["phase"]) == ("rejected", "evaluate")
    assert "lacks 14 of 28 tensors" in ended.outcome["cause"]
    assert not (output / "manifest.json").exists()
    assert not (output / "adapter").exists()
    manifest = json.loads((output / "rejected" / "manifest.json").read_bytes())
    assert "adapter_model.safetensors" in manifest["files"]
    metrics = Metrics.model_validate_json((output / "rejected" / "metrics.json").read_bytes())
    assert (metrics.status, metrics.proof.gate) == ("rejected", None)
    assert metrics.objection in ended.outcome["cause"]

    again = run(env)

    assert again.code == 92, again.shown
    assert "rejected before: adapter_model.safetensors lacks 14 of 28 tensors" in again.outcome["cause"]
    assert "plan" not in again.shown.splitlines(), "it was tried again"

    shutil.rmtree(output / "rejected")
    mended = run(env)

    assert mended.code == 0, mended.shown
    assert "adapter gate: 14 of 14 tensors learned" in mended.shown
    metrics = Metrics.model_validate_json((output / "metrics.json").read_bytes())
    assert metrics.proof.gate.learned == metrics.proof.gate.tensors == 14
