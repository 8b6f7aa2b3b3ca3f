"""What `modal run deploy/modal_app.py` takes for an order: the env file as docker reads it, GPUs in two spellings, and
what is refused before Modal hears of anything. Needs no package of Modal's."""

import re
import sys
from pathlib import Path

import pytest

from deploy.modal_order import PLACES, Order, read_env_file, take_order
from job.environment import SPEC_URI, variable
from job.errors import BadSpec
from job.spec import JobSpec

CANARY = "hf_" + "canary" * 6
SETTINGS = {
    "JOB_MODEL": "Qwen/Qwen3-8B",
    "JOB_DATASET_URI": "s3://bucket/rows.jsonl",
    "JOB_OUTPUT_URI": "s3://bucket/run",
}


def order(env: dict[str, str], tmp_path: Path, gpu: str = "H100:2") -> Order:
    (path := tmp_path / "job.env").write_text("".join(f"{name}={value}\n" for name, value in env.items()))
    return take_order(["--env-file", str(path), "--gpu", gpu])


@pytest.mark.parametrize(
    ("written", "at_modal", "to_the_job"),
    [
        ("H100:2", "H100:2", "H100:2"),
        ("L4", "L4:1", "L4:1"),
        ("2xH100-80GB", "H100:2", "H100:2"),
        ("H100!:8", "H100!:8", "H100:8"),
        ("B200+", "B200+:1", "B200:1"),
        ("A100-80GB:4", "A100-80GB:4", "A100-80GB:4"),
    ],
)
def test_gpus_are_spelled_as_modal_or_as_the_job_spells_them(tmp_path, written, at_modal, to_the_job):
    asked = order(SETTINGS, tmp_path, written)

    assert (f"{asked.gpu}:{asked.count}", asked.gpus) == (at_modal, to_the_job)


@pytest.mark.parametrize("gpu", ["H1000:2", "H100:", "2xH100:2", "H100:0", ""])
def test_gpus_that_nobody_has_are_refused(tmp_path, gpu):
    with pytest.raises(BadSpec, match="--gpu"):
        order(SETTINGS, tmp_path, gpu)


@pytest.mark.parametrize(
    ("hours", "seconds"), [("", 86_400), ("0.5", 2_400), ("23.9", 86_400), ("100", 86_400), ("1e400", 86_400)]
)
def test_an_attempt_may_take_as_long_as_the_job_and_modal_allow(hours, seconds):
    env = {"JOB_MAX_HOURS": hours} if hours else {}

    assert Order(env, "H100", 1, ()).timeout_s == seconds


def test_every_setting_that_can_name_a_folder_is_looked_at():
    takes_places = [
        name for name, field in JobSpec.model_fields.items() if "Uri" in str(field.annotation) or "uri" in name
    ]
    named = [variable(name) for name in (*takes_places, "model", "reward_model", "chat_template", "work_dir")]

    assert [name for name in (*named, SPEC_URI) if not PLACES.fullmatch(name)] == []


@pytest.mark.parametrize(
    "setting",
    ["JOB_OUTPUT_URI=s3://bucket/run,/results", "JOB_MODEL=./base", "JOB_SPEC_URI=file:///job.yaml",
     "JOB_WORK_DIR=/scratch", "JOB_EVAL_DATASET_URI=~/held-out", "AWS_SHARED_CREDENTIALS_FILE=/home/me/credentials",
     "HF_TOKEN_PATH=/home/me/token"],
)  # fmt: skip
def test_a_place_on_this_machine_is_refused_by_its_name(tmp_path, setting):
    name, _, value = setting.partition("=")

    with pytest.raises(BadSpec, match=f"{name}={re.escape(value)} is a place on this machine"):
        order(SETTINGS | {name: value}, tmp_path)


def test_an_env_file_is_read_as_docker_reads_it(tmp_path):
    (path := tmp_path / "job.env").write_text(
        "# a comment\n\n  A=1 = one \nB='quoted'\nC\nD\nE=\n", encoding="utf-8-sig"
    )

    assert read_env_file(path, {"C": "from here", "E": "not this"}) == {
        "A": "1 = one ",
        "B": "'quoted'",
        "C": "from here",
    }


def test_a_line_without_a_name_is_told_by_its_number_and_not_by_what_may_be_a_secret(tmp_path):
    (path := tmp_path / "job.env").write_text(f"A=1\nHF TOKEN={CANARY}\n")

    with pytest.raises(BadSpec, match=r"job\.env:2 does not begin with the name of a variable") as refused:
        read_env_file(path, {})
    assert CANARY not in str(refused.value)


def test_without_the_jobs_packages_the_settings_are_left_to_the_check_at_modal(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "job.environment", None)

    assert order({"JOB_LEARNING_RAET": "1"}, tmp_path).count == 2
    assert "not checked here but only at Modal" in capsys.readouterr().err
