"""What can fail fails before anything is trained: its exit code, its sentence, and nothing half-written."""

import json
import subprocess
import sys

import pytest

from tests.e2e.job import Ended, run
from tests.servers.hub_server import READ_TOKEN
from tests.tiny import ROOT

MANIFEST = "manifest.json"


def assert_refused(ended: Ended, code: int, *words: str) -> None:
    assert ended.code == code, ended.shown
    for word in words:
        assert word in ended.outcome["cause"] + ended.outcome["fix"]
    assert "Traceback" not in ended.shown
    assert ended.outcome["fix"] or code in (65, 78)


def test_a_misspelt_variable_is_78(env):
    assert_refused(run(env | {"JOB_LORA_RANK": "8"}), 78, "JOB_LORA_RANK", "Did you mean JOB_LORA_R?")


def test_a_wrong_type_and_a_contradiction_are_78(env):
    settings = {"JOB_SEED": "many", "JOB_EVAL_FRACTION": "2"}
    assert_refused(run(env | settings), 78, "JOB_SEED=many", "JOB_EVAL_FRACTION=2")


def test_a_model_that_does_not_exist_is_66(env):
    assert_refused(run(env | {"JOB_MODEL": "/nowhere/model"}), 66, "/nowhere/model")


def test_a_dataset_that_does_not_exist_is_66(env):
    assert_refused(run(env | {"JOB_DATASET_URI": "/nowhere/rows.jsonl"}), 66, "/nowhere/rows.jsonl")


def test_a_missing_object_is_66_and_a_missing_bucket_too(env, s3_server):
    assert_refused(run(env | {"JOB_DATASET_URI": "s3://bucket/rows.jsonl"}), 66, "s3://bucket/rows.jsonl")
    assert_refused(run(env | {"JOB_DATASET_URI": "s3://no-such-bucket/rows.jsonl"}), 66, "no-such-bucket")


def test_a_missing_repository_is_66_with_a_token_and_77_without(env, hub_server, monkeypatch):
    assert_refused(run(env | {"JOB_MODEL": "org/missing"}), 66, "org/missing")

    monkeypatch.delenv("HF_TOKEN")
    assert_refused(run(env | {"JOB_MODEL": "org/missing"}), 77, "HF_TOKEN")


def test_a_missing_revision_is_66(env, hub_server):
    hub_server.add("org/base", {"config.json": b"{}"})

    assert_refused(run(env | {"JOB_MODEL": "org/base@v9"}), 66, "v9")


def test_a_gated_model_is_77_with_the_page_to_ask_at(env, hub_server, monkeypatch):
    hub_server.add("org/gated", {"config.json": b"{}", "tokenizer.json": b"{}"}, gated=True)
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)

    assert_refused(run(env | {"JOB_MODEL": "org/gated"}), 77, f"{hub_server.url}/org/gated")


def test_wrong_credentials_are_77(env, s3_server, monkeypatch):
    s3_server.put("bucket", "rows.jsonl", b'{"text": "x"}\n')
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret-of-this-key")

    ended = run(env | {"JOB_DATASET_URI": "s3://bucket/rows.jsonl"})

    assert_refused(ended, 77, "s3://bucket/rows.jsonl", "SignatureDoesNotMatch")
    assert "not-the-secret-of-this-key" not in ended.shown + json.dumps(ended.outcome)


def test_an_output_that_cannot_be_written_is_77_before_any_row_is_read(env, s3_server, bad_rows):
    s3_server.faults.plan(method="PUT", path="/bucket/", status=403, code="AccessDenied", times=9)
    broken = bad_rows("this is no json\n")

    assert_refused(run(env | {"JOB_OUTPUT_URI": "s3://bucket/out", "JOB_DATASET_URI": broken}), 77, "s3://bucket/out")
    assert s3_server.keys("bucket") == {}


def test_an_output_bucket_that_does_not_exist_is_77(env, s3_server):
    assert_refused(run(env | {"JOB_OUTPUT_URI": "s3://no-such-bucket/out"}), 77, "no-such-bucket")


def test_a_folder_that_cannot_be_written_is_77(env):
    assert_refused(run(env | {"JOB_OUTPUT_URI": "/proc/graft-output"}), 77, "/proc/graft-output")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["bad.jsonl", "no rows"]),
        ('{"question": "1+1", "answer": "2"}\n{"question": "1+1"\n', ["bad.jsonl:2", "not valid JSON"]),
        ('{"question": "1+1", "answer": "2"}\n{"question": 3, "answer": "2"}\n', ["bad.jsonl:2", "'question'"]),
        ('{"q": "1+1", "a": "2"}\n', ["bad.jsonl:1", "JOB_COLUMNS", "'q', 'a'"]),
    ],
)
def test_rows_that_cannot_teach_are_65_with_file_and_line(env, bad_rows, content, words, tmp_path):
    ended = run(env | {"JOB_DATASET_URI": bad_rows(content)})

    assert_refused(ended, 65, *words)
    written = {path.name for path in (tmp_path / "output").rglob("*") if path.is_file()}
    assert not written & {MANIFEST, "metrics.json", "adapter_model.safetensors"}


def test_a_broken_row_far_behind_the_sample_is_65_too(env, bad_rows):
    content = '{"question": "1+1", "answer": "2"}\n' * 1500 + "{broken\n"

    assert_refused(run(env | {"JOB_DATASET_URI": bad_rows(content)}), 65, "bad.jsonl:1501")


def test_a_large_model_without_a_gpu_is_80(env, large_model):
    assert_refused(run(env | {"JOB_MODEL": str(large_model)}), 80, "8,000M parameters", "--gpus all")


def test_an_unreachable_store_is_83(env, s3_server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")

    assert_refused(run(env | {"JOB_DATASET_URI": "s3://bucket/rows.jsonl"}), 83, "s3://bucket/rows.jsonl")


def test_an_output_that_holds_something_else_is_73(env, tmp_path):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "metrics.json").write_text("{}")

    assert_refused(run(env), 73, "metrics.json", "Choose another JOB_OUTPUT_URI")
    assert (tmp_path / "output" / "metrics.json").read_text() == "{}"


def test_a_second_output_that_holds_something_else_is_73_before_anything_is_begun(env, tmp_path):
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "metrics.json").write_text("{}")

    refused = run(env | {"JOB_OUTPUT_URI": f"{tmp_path}/output,{tmp_path}/second"})

    assert_refused(refused, 73, f"{tmp_path}/second holds metrics.json", "Choose another JOB_OUTPUT_URI")
    assert refused.outcome["phase"] == "inspect"
    assert not (tmp_path / "output").exists()


def test_a_spec_file_is_read_from_the_store_and_the_environment_overrides_it(env, s3_server):
    s3_server.put("bucket", "spec.yaml", b"lora_r: 8\nlearning_rate: fast\nlora_rank: 3\n")

    ended = run(env | {"JOB_SPEC_URI": "s3://bucket/spec.yaml", "JOB_LEARNING_RATE": "1e-4"})

    assert_refused(ended, 78, "lora_rank is not a setting", "Did you mean lora_r?")
    assert "learning_rate" not in ended.outcome["cause"]


@pytest.mark.parametrize(
    "settings",
    [
        {"JOB_LORA_RANK": "8"},
        {"JOB_DATASET_URI": "/no.jsonl"},
        {"JOB_OUTPUT_URI": "/proc/x"},
        {"JOB_CHAT_TEMPLATE": "/no"},
    ],
)
def test_a_refusal_never_imports_torch(env, settings):
    """The time itself is measured by bench/refusal.py; this is what would make it slow."""
    code = (
        "import sys\nfrom job.cli import main\ncode = main([], dict(pair.split('=', 1) for pair in sys.argv[1:]))\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\nsys.exit(code)"
    )
    pairs = [f"{name}={value}" for name, value in (env | settings).items()]
    done = subprocess.run([sys.executable, "-c", code, *pairs], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode in (66, 77, 78), done.stderr
