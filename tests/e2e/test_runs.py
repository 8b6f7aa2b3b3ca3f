"""Whole runs through the entrypoint, against real protocols."""

import json
import signal
import subprocess
import sys
from typing import Any

import pytest

from job.environment import load_spec
from job.errors import UploadIncomplete
from job.output import Output
from job.records import Decided
from job.report.metrics import Metrics
from tests.e2e.job import logged, run, run_and_signal
from tests.tiny import ROOT

pytestmark = pytest.mark.slow


def s3_files(server: Any) -> dict[str, bytes]:
    return {key.removeprefix("out/"): data for key, data in server.keys("bucket").items() if key.startswith("out/")}


def test_what_an_earlier_attempt_decided_holds_although_this_machine_would_decide_otherwise(env, tmp_path):
    """Without a GPU nothing is quantized unasked; the attempt before had one."""
    Output(env["JOB_OUTPUT_URI"]).mark(load_spec(env), Decided(quantization="nf4", packing=False))

    ended = run(env)

    assert ended.code == 0, ended.shown
    plan = Metrics.model_validate_json((tmp_path / "output" / "metrics.json").read_bytes()).plan
    assert (plan.quantization, plan.packing) == ("nf4", False)
    assert "nf4, as an earlier attempt decided" in ended.shown


def test_from_s3_to_s3_over_two_processes(env, s3_server, rows):
    s3_server.put("bucket", "data/rows.jsonl", rows.read_bytes())
    settings = {
        "JOB_DATASET_URI": "s3://bucket/data/rows.jsonl",
        "JOB_OUTPUT_URI": "s3://bucket/out",
        "JOB_NUM_PROCESSES": "2",
        "JOB_EVAL_FRACTION": "0.2",
    }

    ended = run(env | settings)

    assert ended.code == 0, ended.shown
    files = s3_files(s3_server)
    manifest = json.loads(files["manifest.json"])
    assert set(manifest["files"]) == {name for name in files if name.startswith("adapter/")} | {
        "metrics.json",
        "dataset_report.json",
        "report.html",
    }
    assert "adapter/training_args.bin" not in files
    metrics = Metrics.model_validate_json(files["metrics.json"])
    assert (metrics.plan.strategy, metrics.plan.num_processes, metrics.train.steps) == ("ddp", 2, 4)
    assert metrics.eval is not None
    assert metrics.eval.loss < metrics.eval.loss_before
    assert metrics.proof.changed_tensors == metrics.proof.tensors > 0
    assert json.loads(files["attempts/0001/outcome.json"])["code"] == 0
    assert json.loads(files["adapter/adapter_config.json"])["base_model_name_or_path"] == env["JOB_MODEL"]
    assert s3_server.open_uploads("bucket") == 0

    again = run(env | settings)

    assert (again.code, "finished before" in again.outcome["cause"]) == (0, True)
    assert again.seconds < 3
    assert s3_files(s3_server) == files

    other = run(env | settings | {"JOB_SEED": "7"})

    assert other.code == 73
    assert s3_files(s3_server) == files


LOAD = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base_id, adapter_id = sys.argv[1:]
base = AutoModelForCausalLM.from_pretrained(base_id)
ids = AutoTokenizer.from_pretrained(adapter_id)("What is 1 plus 2?", return_tensors="pt").input_ids
before = base(ids).logits
model = PeftModel.from_pretrained(base, adapter_id)
print((model(ids).logits - before).abs().max().item(), model.peft_config["default"].base_model_name_or_path,
      model.peft_config["default"].revision)
"""


def test_from_the_hub_to_the_hub_and_back_by_repository_id(env, hub_server, rows, tiny_model):
    base = {path.name: path.read_bytes() for path in tiny_model.iterdir()}
    commit = hub_server.add("org/base", base, private=True)
    hub_server.add("datasets/org/rows", {"data/train-0.jsonl": rows.read_bytes(), "README.md": b"rows"}, private=True)

    ended = run(env | {"JOB_MODEL": "org/base", "JOB_DATASET_URI": "org/rows", "JOB_OUTPUT_URI": "hf://org/tuned"})

    assert ended.code == 0, ended.shown
    files = hub_server.files("org/tuned")
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md", "metrics.json", "manifest.json"} <= set(
        files
    )
    assert "base_model: org/base" in files["README.md"].decode()
    assert "attempts/0001/outcome.json" in hub_server.files("org/tuned", "graft-run")
    assert hub_server.leaked == []

    loaded = subprocess.run([sys.executable, "-c", LOAD, "org/base", "org/tuned"], capture_output=True, text=True)

    assert loaded.returncode == 0, loaded.stderr
    moved, base_id, revision = loaded.stdout.split()
    assert float(moved) > 1e-3
    assert (base_id, revision) == ("org/base", commit)


# Rank 1 as it was seen to end once: its work done, aborted by a library's thread while the interpreter went down.
ABORTS_AT_EXIT = """
import atexit, os
if os.environ.get("RANK") == "1":
    atexit.register(os.abort)
"""


def test_a_rank_that_would_crash_on_its_way_out_takes_no_result_with_it(env, tmp_path):
    (tmp_path / "crash").mkdir()
    (tmp_path / "crash" / "sitecustomize.py").write_text(ABORTS_AT_EXIT)

    ended = run(env | {"JOB_NUM_PROCESSES": "2", "PYTHONPATH": str(tmp_path / "crash")})

    assert ended.code == 0, ended.shown


def test_a_signal_in_training_ends_with_75_and_leaves_no_result(env, tmp_path):
    long = env | {"JOB_MAX_STEPS": "100000", "JOB_NUM_PROCESSES": "2"}

    ended = run_and_signal(long, lambda: logged(tmp_path / "work", "first_step"), signal.SIGTERM)

    assert ended.code == 75, ended.shown
    assert "SIGTERM arrived. Training stopped after step" in ended.outcome["cause"]
    assert not (tmp_path / "output" / "manifest.json").exists()
    assert not (tmp_path / "output" / "adapter").exists()
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout
    assert left == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
@pytest.mark.usefixtures("hangup")
def test_a_signal_in_preparation_ends_with_75(env, tmp_path, number):
    ended = run_and_signal(env, lambda: logged(tmp_path / "work", "plan"), number)

    assert ended.code == 75, ended.shown
    assert ended.outcome["phase"] == "prepare"


def test_an_upload_that_fails_is_84_and_a_rerun_only_uploads(env, s3_server, tmp_path):
    settings = {"JOB_OUTPUT_URI": "s3://bucket/out"}
    s3_server.faults.plan(method="PUT|POST", path="adapter_model", times=1000)

    failed = run(env | settings)

    assert failed.code == UploadIncomplete.exit_code, failed.shown
    assert "manifest.json" not in s3_files(s3_server)

    s3_server.faults.clear()
    rerun = run(env | settings)

    assert rerun.code == 0, rerun.shown
    assert "only the upload is left" in rerun.shown
    assert "training:" not in rerun.shown
    assert "manifest.json" in s3_files(s3_server)


def test_a_corrupted_upload_is_found_by_reading_back(env, s3_server):
    s3_server.faults.plan("damaged", method="PUT", path="adapter_config", times=1000)

    ended = run(env | {"JOB_OUTPUT_URI": "s3://bucket/out"})

    assert ended.code == 84, ended.shown
    assert "adapter_config.json" in ended.outcome["cause"]
    assert "manifest.json" not in s3_files(s3_server)


def test_a_second_output_that_fails_is_84_and_a_rerun_fills_it(env, s3_server, tmp_path):
    outputs = {"JOB_OUTPUT_URI": f"{tmp_path}/output,s3://bucket/out"}
    s3_server.faults.plan(method="PUT|POST", path="adapter_model", times=1000)

    failed = run(env | outputs)

    assert failed.code == 84, failed.shown
    assert "s3://bucket/out" in failed.outcome["cause"]
    assert (tmp_path / "output" / "manifest.json").exists()

    s3_server.faults.clear()
    rerun = run(env | outputs)

    assert rerun.code == 0, rerun.shown
    assert "Copied to s3://bucket/out" in rerun.outcome["cause"]
    assert (
        s3_files(s3_server)["adapter/adapter_model.safetensors"]
        == (tmp_path / "output" / "adapter" / "adapter_model.safetensors").read_bytes()
    )


def test_an_adapter_that_did_not_change_is_92(env, tmp_path):
    ended = run(env | {"JOB_MAX_STEPS": "1"})  # the only step is warm-up, with learning rate 0

    assert ended.code == 92, ended.shown
    assert "adapter tensors as they were" in ended.outcome["cause"]
    assert not (tmp_path / "output" / "manifest.json").exists()


def test_a_loss_that_is_no_number_is_90(env):
    ended = run(env | {"JOB_LEARNING_RATE": "1e30", "JOB_MAX_GRAD_NORM": "0", "JOB_LOGGING_STEPS": "1"})

    assert ended.code == 90, ended.shown
    assert "at step" in ended.outcome["cause"]


def test_one_row_is_enough_to_train(env, tmp_path):
    row = tmp_path / "one.jsonl"
    row.write_text(
        '{"messages": [{"role": "user", "content": "größe?"}, {"role": "assistant", "content": "日本 🙂"}]}\n'
    )

    ended = run({**env, "JOB_DATASET_URI": str(row), "JOB_COLUMNS": "", "JOB_MAX_STEPS": "3"})

    assert ended.code == 0, ended.shown
    metrics = json.loads((tmp_path / "output" / "metrics.json").read_text())
    assert (metrics["data"]["format"], metrics["data"]["rows"]) == ("messages", 1)


def test_debug_shows_the_traceback_and_the_workers_own_output(env, tmp_path):
    fault = {"FAKE_FAULT": "bug@1", "PYTHONPATH": str(ROOT / "tests" / "fakes" / "faults")}

    ended = run(env | fault | {"JOB_DEBUG": "1", "JOB_LOG_LEVEL": "debug"})

    assert ended.code == 70, ended.shown
    assert "nobody has thought of this" in ended.outcome["cause"]
    assert "Traceback" in ended.shown


def test_the_report_of_the_data_is_published_and_all_files_of_a_local_result_can_be_read_by_others(env, tmp_path, rows):
    doubled = tmp_path / "doubled.jsonl"
    doubled.write_text(rows.read_text() * 2)

    ended = run(env | {"JOB_DATASET_URI": str(doubled)})

    assert ended.code == 0, ended.shown
    report = json.loads((tmp_path / "output" / "dataset_report.json").read_text())
    assert (report["train"]["rows"], report["findings"]["duplicate_rows"]) == (128, 64)
    assert "rows that stand in an earlier one too: 64" in ended.shown
    assert "dataset_report.json" in json.loads((tmp_path / "output" / "manifest.json").read_text())["files"]
    files = [path for path in (tmp_path / "output").rglob("*") if path.is_file()]
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in files)
