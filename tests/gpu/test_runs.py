"""Whole runs on a GPU. `make test-gpu` on a machine that has one; elsewhere skipped, saying so."""

import json
from pathlib import Path

import pytest

from tests.e2e.job import run
from tests.gpu.machine import GPUS, NEEDS_GPU, PRECISION
from tests.tiny import write_base_model, write_model, write_rows, write_talks

pytestmark = NEEDS_GPU


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    rows = write_rows(tmp_path / "rows.jsonl", 200)
    return {
        "JOB_MODEL": str(write_model(tmp_path / "model", rows)),
        "JOB_DATASET_URI": str(rows),
        "JOB_COLUMNS": "prompt=question,completion=answer",
        "JOB_OUTPUT_URI": str(tmp_path / "output"),
        "JOB_WORK_DIR": str(tmp_path / "work"),
        "JOB_MAX_STEPS": "20",
        "JOB_MAX_LENGTH": "512",
        "JOB_LEARNING_RATE": "1e-3",
        "JOB_EVAL_FRACTION": "0.1",
    }


def metrics_of(env: dict[str, str]) -> dict:
    ended = run(env)

    assert ended.code == 0, ended.shown
    return json.loads((Path(env["JOB_OUTPUT_URI"]) / "metrics.json").read_text())


def test_one_gpu_is_found_planned_for_and_used(env):
    metrics = metrics_of(env | {"JOB_NUM_PROCESSES": "1"})

    assert metrics["hardware"]["gpus"][0]["name"] == GPUS[0].name
    assert metrics["plan"]["use_gpu"]
    assert metrics["plan"]["precision"] == PRECISION
    assert metrics["train"]["peak_gpu_memory_gib"] > 0
    assert metrics["eval"]["loss"] < metrics["eval"]["loss_before"]


def test_a_gpu_and_a_cpu_learn_the_same(env, tmp_path):
    common = env | {"JOB_NUM_PROCESSES": "1", "JOB_PACKING": "false"}
    gpu = metrics_of(common)
    cpu = metrics_of(common | {"JOB_STRATEGY": "cpu", "JOB_OUTPUT_URI": str(tmp_path / "cpu")})

    assert gpu["eval"]["loss"] == pytest.approx(cpu["eval"]["loss"], rel=0.02)  # bf16 keeps three digits


@pytest.mark.skipif(len(GPUS) < 2, reason="fewer than two NVIDIA GPUs are visible")
def test_several_gpus_share_the_batch_and_learn_the_same(env, tmp_path):
    common = env | {"JOB_PACKING": "false"}
    one = metrics_of(common | {"JOB_NUM_PROCESSES": "1"})
    two = metrics_of(common | {"JOB_NUM_PROCESSES": "2", "JOB_OUTPUT_URI": str(tmp_path / "two")})

    assert two["plan"]["strategy"] == "ddp"
    assert two["train"]["loss"] == pytest.approx(one["train"]["loss"], rel=0.01)


def test_new_tokens_are_learned_through_the_fused_kernel(env, tmp_path):
    base = write_base_model(tmp_path / "base", Path(env["JOB_MODEL"]))
    talks = write_talks(tmp_path / "talks.jsonl", Path(env["JOB_DATASET_URI"]))
    settings = {"JOB_MODEL": str(base), "JOB_DATASET_URI": str(talks), "JOB_COLUMNS": "", "JOB_CHAT_TEMPLATE": "chatml"}

    metrics = metrics_of(env | settings)

    assert metrics["tokenizer"]["added_tokens"]["tokens"] == ["<|im_start|>", "<|im_end|>"]
    assert metrics["proof"]["changed_tensors"] == metrics["proof"]["tensors"]
    assert metrics["eval"]["loss"] < metrics["eval"]["loss_before"]
