"""`check` and `preview`: what can be known without a GPU, with the exit code of the run and without its traces."""

import json
import shutil
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.job import Ended, end, run, start


def verb(env: dict[str, str], *argv: str) -> Ended:
    began = time.monotonic()
    return end(start(env, *argv), began)


def test_a_check_says_that_all_is_well_and_never_claims_the_output(env, tmp_path):
    ended = verb(env | {"JOB_STRATEGY": "cpu"}, "check")

    assert ended.code == 0, ended.shown
    for word in ("can be read", "can be written", "GiB", "64 rows", "strategy"):
        assert word in ended.shown
    assert not [path for path in (tmp_path / "output").rglob("*") if path.is_file()]


def test_without_a_gpu_the_plan_is_said_to_be_unchecked(env):
    ended = verb(env, "check")

    assert ended.code == 0, ended.shown
    assert "not checked: no GPU is here" in ended.shown


def test_a_plan_is_made_for_gpus_that_are_not_here(env):
    ended = verb(env, "check", "--gpus", "2xA100-80GB")

    assert ended.code == 0, ended.shown
    assert "ddp over 2 × NVIDIA A100-SXM4-80GB" in ended.shown


def test_a_gpu_that_is_not_known_is_78_with_those_that_are(env):
    ended = verb(env, "check", "--gpus", "8xGTX9")

    assert ended.code == 78
    assert "A100-80GB" in ended.outcome["cause"]


def test_a_plan_shows_memory_time_cost_and_what_it_was_chosen_from(env):
    ended = verb(env | {"JOB_GPU_HOUR_PRICE": "1.5"}, "plan", "--gpus", "L4:2")

    assert ended.code == 0, ended.shown
    for word in ("memory of one GPU", "base weights", "tokens/s", "steps", "at 1.5 an hour", "fsdp", "of 20.25"):
        assert word in ended.printed


def test_a_plan_asks_for_no_rows_and_no_output_and_is_json_for_programs(env, tmp_path):
    few = {"JOB_MODEL": env["JOB_MODEL"], "JOB_WORK_DIR": str(tmp_path / "work")}

    ended = verb(few, "plan", "--json", "--gpus", "H100")
    again = verb(few, "plan", "--gpus", "H100")

    plan = json.loads(ended.printed.splitlines()[0])
    assert (ended.code, plan["strategy"], plan["quantization"]) == (0, "single", "none")
    assert "none: JOB_DATASET_URI is not set" in again.printed
    assert again.seconds < 2  # from what the first one has kept


def test_a_plan_that_no_gpu_holds_is_78_with_one_that_does(env, tmp_path):
    folder = tmp_path / "giant"
    shutil.copytree(env["JOB_MODEL"], folder)
    write_headers(folder, layers=80, hidden=8192, intermediate=28672)

    ended = verb(env | {"JOB_MODEL": str(folder), "JOB_CPU_OFFLOAD": "false"}, "plan", "--gpus", "T4")

    assert ended.code == 78
    assert "does not fit on 1 × Tesla T4" in ended.outcome["cause"]
    assert "Take 1 ×" in ended.outcome["fix"]


def write_headers(folder: Path, layers: int, hidden: int, intermediate: int) -> None:
    """The header of a large model's weights, without the weights."""
    shapes = {"embed_tokens": (320, hidden), "lm_head": (320, hidden)}
    for layer in range(layers):
        shapes |= {f"layers.{layer}.self_attn.{name}": (hidden, hidden) for name in ("q_proj", "o_proj")}
        shapes |= {
            f"layers.{layer}.mlp.{name}": (intermediate, hidden) for name in ("gate_proj", "up_proj", "down_proj")
        }
    tensors = {f"model.{n}.weight": {"dtype": "BF16", "shape": s, "data_offsets": [0, 0]} for n, s in shapes.items()}
    header = json.dumps(tensors).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    config = json.loads((folder / "config.json").read_text())
    sizes = {"num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": intermediate}
    (folder / "config.json").write_text(json.dumps(config | sizes | {"num_attention_heads": 64, "head_dim": 128}))


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"JOB_LORA_RANK": "8"}, 78),
        ({"JOB_MODEL": "/nowhere"}, 66),
        ({"JOB_OUTPUT_URI": "/proc/graft"}, 77),
        ({"JOB_DATASET_URI": "<broken>"}, 65),
    ],
)
def test_a_check_gives_the_exit_code_that_the_run_gives(env, settings: dict[str, Any], code, bad_rows):
    if settings.get("JOB_DATASET_URI") == "<broken>":
        settings = {"JOB_DATASET_URI": bad_rows('{"question": "1", "answer": "2"}\n' * 1200 + "{broken\n")}

    assert verb(env | settings, "check").code == code
    assert run(env | settings).code == code


def test_a_check_of_a_sample_looks_no_further(env, bad_rows):
    broken = bad_rows('{"question": "1", "answer": "2"}\n' * 50 + "{broken\n")

    ended = verb(env | {"JOB_DATASET_URI": broken, "JOB_CHECK_ROWS": "50"}, "check")

    assert ended.code == 0, ended.shown
    assert "the first 50" in ended.shown


def test_a_preview_marks_what_carries_loss_and_needs_no_output(env, tmp_path):
    process = start({name: value for name, value in env.items() if name != "JOB_OUTPUT_URI"}, "preview", "2")
    out, err = process.communicate(timeout=60)

    assert process.returncode == 0, err
    assert "prompt-completion (columns 'question' and 'answer')" in out
    assert out.count("── rows.jsonl:") == 2
    assert "?⟦" in out, "the loss begins after the question"
    assert "<|im_end|>⟧" in out, "the end token is learned"
    assert json.loads(out.splitlines()[-1])["code"] == 0


def test_a_preview_of_a_row_that_cannot_be_used_names_it(env, bad_rows):
    ended = verb(env | {"JOB_DATASET_URI": bad_rows('{"question": 3, "answer": "2"}\n')}, "preview")

    assert ended.code == 65
    assert "bad.jsonl:1" in ended.outcome["cause"]


def test_a_run_is_not_refused_for_rows_at_its_beginning_that_are_worse_than_the_rest(env, tmp_path: Path):
    mixed = tmp_path / "mixed.jsonl"
    long = json.dumps({"question": "q", "answer": "1 plus " * 400}) + "\n"
    mixed.write_text(long * 1000 + '{"question": "1+1", "answer": "2"}\n' * 1001)

    ended = run(env | {"JOB_DATASET_URI": str(mixed), "JOB_MAX_STEPS": "2"})

    assert ended.code == 0, ended.shown
    assert "1,000 rows cut at max_length" in ended.shown
