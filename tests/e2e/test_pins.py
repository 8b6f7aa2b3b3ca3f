"""What a run is trained on may not change under it: rows that grow, a model that is replaced, a branch that moves."""

import json
import signal
from pathlib import Path

import pytest

from job.environment import load_spec
from job.output import Output
from job.records import Decided
from job.report.metrics import Metrics
from tests.e2e.job import Ended, logged, run, run_and_signal

pytestmark = pytest.mark.slow

Env = dict[str, str]
STEPS = {"JOB_MAX_STEPS": "200", "JOB_SAVE_STEPS": "10"}


@pytest.fixture
def own(env: Env, tmp_path: Path, rows: Path, tiny_model: Path) -> Env:
    """A job with rows and a model that may be changed."""
    (tmp_path / "rows.jsonl").write_bytes(rows.read_bytes())
    model = tmp_path / "base"
    model.mkdir()
    for file in tiny_model.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    return env | STEPS | {"JOB_MODEL": str(model), "JOB_DATASET_URI": str(tmp_path / "rows.jsonl")}


def preempt(env: Env, tmp_path: Path) -> int:
    """Start the job and stop it once a checkpoint is durable; returns the newest step that is."""
    work = tmp_path / "first-machine"
    ended = run_and_signal(env | {"JOB_WORK_DIR": str(work)}, lambda: logged(work, "durable"), signal.SIGTERM)
    assert ended.code == 75, ended.shown
    return int(ended.outcome["last_durable_step"])


def metrics_in(folder: Path) -> Metrics:
    return Metrics.model_validate_json((folder / "metrics.json").read_bytes())


def assert_refused_before_training(ended: Ended, *words: str) -> None:
    assert ended.code == 73, ended.shown
    assert ended.outcome["phase"] == "prepare"
    for word in (*words, "choose another JOB_OUTPUT_URI"):
        assert word in ended.outcome["cause"] + ended.outcome["fix"]


def test_rows_or_a_model_that_changed_under_a_run_are_73_and_restored_it_goes_on(own, tmp_path, rows):
    step = preempt(own, tmp_path)
    settled = Output(own["JOB_OUTPUT_URI"]).decided(load_spec(own))
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"question": "1+1", "answer": "2"}\n')

    assert_refused_before_training(run(own), f"JOB_DATASET_URI={tmp_path}/rows.jsonl has changed", f"of step {step} in")

    (tmp_path / "rows.jsonl").write_bytes(rows.read_bytes())
    config = tmp_path / "base" / "config.json"
    before = config.read_bytes()
    config.write_text(json.dumps(json.loads(before) | {"rms_norm_eps": 0.1}))

    assert_refused_before_training(run(own), f"JOB_MODEL={tmp_path}/base has changed", f"of step {step} in")

    config.write_bytes(before)
    assert Output(own["JOB_OUTPUT_URI"]).decided(load_spec(own)) == settled

    ended = run(own)

    assert ended.code == 0, ended.shown
    assert metrics_in(tmp_path / "output").attempts.resumed_at_step == step


@pytest.mark.thorough
def test_what_was_settled_before_anything_was_trained_is_simply_replaced(own, tmp_path):
    quick = own | {"JOB_MAX_STEPS": "4"}
    spec, output = load_spec(quick), Output(own["JOB_OUTPUT_URI"])
    before = Decided(quantization="nf4", packing=False, model="of old", rows="of old")
    output.mark(spec, before)

    ended = run(quick)

    assert ended.code == 0, ended.shown
    now = output.decided(spec)
    assert "of old" not in (now.model, now.rows)
    assert now.quantization == "nf4", "what the plan has settled holds all the same"


def test_a_branch_that_moves_costs_a_run_nothing(env, tmp_path, hub_server, rows, tiny_model):
    model = {path.name: path.read_bytes() for path in tiny_model.iterdir()}
    commits = [
        hub_server.add("org/base", model, private=True),
        hub_server.add("datasets/org/rows", {"train.jsonl": rows.read_bytes()}, private=True),
    ]
    on_hub = env | STEPS | {"JOB_MODEL": "org/base", "JOB_DATASET_URI": "org/rows"}
    step = preempt(on_hub, tmp_path)
    hub_server.repositories["org/base"].commit("main", model | {"config.json": b"{}"}, "no model any more")
    hub_server.repositories["datasets/org/rows"].commit("main", {"train.jsonl": b"{}\n"}, "no rows any more")

    ended = run(on_hub)

    assert ended.code == 0, ended.shown
    metrics = metrics_in(tmp_path / "output")
    assert metrics.attempts.resumed_at_step == step
    assert [metrics.base_model.revision, metrics.data.revision] == commits
    assert (metrics.base_model.uri, metrics.data.uri) == ("org/base", "org/rows")
