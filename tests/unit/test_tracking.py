"""Trackers: refused at the start if they cannot work, told of each log line, and never in training's way."""

import io
import json
import sys
import time

import pytest

from job import tracking
from job.console import Console
from job.errors import AccessDenied, BadSpec
from job.processes import StopRequest
from job.redact import redactor
from job.run import Run
from job.rundir import write_json
from job.spec import JobSpec
from job.tracking import check_trackers, tracked

# A library as the tracker sees it, which writes down what it is told.
FAKE = """
import json, os, time
def _note(*what):
    with open(os.environ["MLFLOW_NOTES"], "a") as file:
        file.write(json.dumps(what) + "\\n")
def start_run(run_name, tags): _note("run", run_name)
def log_params(params): _note("params", len(params), max(map(len, params.values())))
def log_metrics(figures, step):
    {trouble}
    _note("figures", step, figures)
def end_run(): _note("end")
"""


def spec(**settings) -> JobSpec:
    defaults = {"model": "org/m", "dataset_uri": "org/d", "output_uri": ("s3://bucket/runs/one",)}
    return JobSpec(**(defaults | settings))


def fake_mlflow(folder, monkeypatch, trouble="pass"):
    (folder / "mlflow.py").write_text(FAKE.format(trouble=trouble))
    monkeypatch.syspath_prepend(str(folder))


@pytest.fixture
def said():
    return io.StringIO()


@pytest.fixture
def run(tmp_path, said):
    made = Run(
        spec(work_dir=tmp_path / "work", report_to=("mlflow",)),
        {"MLFLOW_NOTES": str(tmp_path / "notes"), "PYTHONPATH": str(tmp_path)},
        Console(said, redactor({})),
        StopRequest(),
    )
    made.dir.root.mkdir(parents=True)
    write_json(made.dir.spec, made.spec)
    return made


def notes(tmp_path) -> list[list[object]]:
    path = tmp_path / "notes"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(tmp_path, what: str) -> None:
    end = time.monotonic() + 60
    while not any(note[0] == what for note in notes(tmp_path)):
        assert time.monotonic() < end, f"the tracker has not said {what!r}"
        time.sleep(0.05)


def test_a_tracker_hears_of_every_log_line_under_the_trainers_names(run, said, tmp_path, monkeypatch):
    fake_mlflow(tmp_path, monkeypatch)

    with tracked(run):
        wait_for(tmp_path, "params")
        run.log.write("train", step=5, total_steps=10, loss=2.5, learning_rate=1e-4)
        run.log.write("checkpoint", step=5)
        run.log.write("evaluation", step=5, total_steps=10, eval_loss=2.25)

    heard = notes(tmp_path)
    assert heard[0] == ["run", "one"]
    assert ["figures", 5, {"train/total_steps": 10, "train/loss": 2.5, "train/learning_rate": 1e-4}] in heard
    assert any(note[0] == "figures" and note[2].get("eval/loss") == 2.25 for note in heard)
    assert heard[-1] == ["end"]
    assert said.getvalue() == ""


def test_a_tracker_that_fails_is_told_of_and_nothing_else(run, said, tmp_path, monkeypatch):
    fake_mlflow(tmp_path, monkeypatch, trouble="raise ConnectionError('the server is gone')")

    with tracked(run):
        wait_for(tmp_path, "params")
        run.log.write("train", step=1, loss=2.5)

    assert "mlflow: ConnectionError: the server is gone; training was not affected" in said.getvalue()


def test_a_tracker_that_hangs_is_left_behind(run, said, tmp_path, monkeypatch):
    fake_mlflow(tmp_path, monkeypatch, trouble="time.sleep(600)")
    monkeypatch.setattr(tracking, "_LAST_S", 1.0)

    began = None
    with tracked(run):
        wait_for(tmp_path, "params")
        run.log.write("train", step=1, loss=2.5)
        began = time.monotonic()

    assert time.monotonic() - began < 10
    assert "mlflow: had more to send after 1 s; training was not affected" in said.getvalue()


@pytest.mark.parametrize("name", ["wandb", "tensorboard", "mlflow"])
def test_a_package_that_is_missing_is_78_at_the_start(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BadSpec, match=rf"JOB_REPORT_TO={name} needs the package {name}, which is not installed"):
        check_trackers(spec(report_to=(name,)), {})


@pytest.mark.parametrize("env", [{"WANDB_API_KEY": "k"}, {"WANDB_MODE": "offline"}])
def test_wandb_wants_a_key_or_to_stay_offline(env, tmp_path, monkeypatch):
    (tmp_path / "wandb.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    asked = spec(report_to=("wandb",))

    check_trackers(asked, env)
    with pytest.raises(AccessDenied, match="no WANDB_API_KEY"):
        check_trackers(asked, {})


def test_all_attempts_have_one_name_and_another_run_has_another():
    one, again = spec(), spec(report_to=("wandb",), max_hours=3)

    assert one.tracking_id == again.tracking_id
    assert one.tracking_id != spec(seed=1).tracking_id
    assert one.tracking_id != spec(output_uri=("s3://bucket/runs/two",)).tracking_id
    assert (one.tracking_name, spec(run_name="mine").tracking_name) == ("one", "mine")
