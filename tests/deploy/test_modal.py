"""`modal run deploy/modal_app.py`: the real command and the real container program, and a server in Modal's place."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("modal", reason="modal is not installed (the extra `deploy`)")

from modal_proto import api_pb2

from deploy import modal_app
from job.environment import load_spec
from job.errors import ERROR_CLASSES
from job.preparation import open_workshop
from job.processes import StopRequest
from tests.servers.modal_server import ModalServer
from tests.tiny import ROOT

CANARY = "hf_" + "canary" * 6
SETTINGS = {
    "JOB_MODEL": "Qwen/Qwen3-8B", "JOB_DATASET_URI": "s3://bucket/rows.jsonl", "JOB_OUTPUT_URI": "s3://bucket/run",
    "JOB_MAX_HOURS": "2", "HF_TOKEN": CANARY, "AWS_ACCESS_KEY_ID": "",
}  # fmt: skip
# Stands for the job: writes down how it was started and ends with the next of CODES. 0 for the check unless CHECK says
# otherwise, and `wait` for a job that trains until it is asked to stop.
JOB = """
import json, os, pathlib, signal, sys, time
calls = pathlib.Path(os.environ["CALLS"])
earlier = [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []
above = os.getppid()
parent = pathlib.Path(f"/proc/{above}/cmdline").read_text()
def end(code, *_):
    print(json.dumps({"status": "failed" if code else "succeeded", "code": code, "class": "X", "phase": "train",
                      "cause": "So it ended.", "fix": "", "last_durable_step": None, "attempt": 1}), flush=True)
    os._exit(code)
signal.signal(signal.SIGTERM, lambda *_: end(75))
with calls.open("a") as file:
    call = {"argv": sys.argv[1:], "cmdlines": [*sys.orig_argv, parent], "token": os.environ.get("HF_TOKEN"),
            "mine": os.environ.get("MINE")}
    print(json.dumps(call), file=file, flush=True)
print("as the job says it", file=sys.stderr, flush=True)
if sys.argv[1] == "check":
    end(int(os.environ.get("CHECK", "0")))
codes = os.environ.get("CODES", "0").split(",")
code = codes[min(sum(one["argv"][0] == "run" for one in earlier), len(codes) - 1)]
while code == "wait" and os.getppid() == above:
    time.sleep(0.01)
if code == "silent":
    os._exit(1)
end(int(code))
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The job's stand-in; its calls are in ``calls``."""
    (path := tmp_path / "job.py").write_text(JOB)
    for name, value in {"GRAFT_PYTHON": sys.executable, "GRAFT_ENTRYPOINT": path, "CALLS": tmp_path / "calls"}.items():
        monkeypatch.setenv(name, str(value))
    return path


def calls(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]


@pytest.fixture
def server(job: Path, tmp_path: Path) -> Iterator[ModalServer]:
    """Modal, whose containers have this file's module under /root, as Modal puts it there."""
    (root := tmp_path / "root").mkdir()
    shutil.copy(ROOT / "deploy/modal_app.py", root)
    with ModalServer(root) as server:
        server.secrets["mine"] = {"MINE": "from-a-secret"}
        server.container_env = {name: os.environ[name] for name in ("GRAFT_PYTHON", "GRAFT_ENTRYPOINT", "CALLS")}
        server.container_env["PYTHONPATH"] = str(ROOT)
        yield server


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(server: ModalServer, tmp_path: Path) -> Iterator[Start]:
    """Starts `modal run` with the settings above and *more*."""
    started: list[subprocess.Popen[str]] = []

    def run(*words: str, gpu: str = "H100:2", **more: str) -> "subprocess.Popen[str]":
        env_file = tmp_path / "job.env"
        env_file.write_text("".join(f"{name}={value}\n" for name, value in (SETTINGS | more).items()))
        command = [str(Path(sys.executable).with_name("modal")), "run", str(ROOT / "deploy/modal_app.py")]
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **server.env}
        process = subprocess.Popen(
            [*command, "--env-file", str(env_file), "--gpu", gpu, *words],
            cwd=tmp_path, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def test_the_check_comes_first_and_then_the_job_whose_outcome_and_result_are_told(start, server, tmp_path):
    code, output = ended(start("--secret", "mine"))

    assert code == 0, output
    assert [call["argv"] for call in calls(tmp_path)] == [["check", "--gpus", "H100:2"], ["run"]]
    assert "succeeded (0): So it ended.\nresult: s3://bucket/run\n" in output
    assert output.count("as the job says it") == 2
    assert [(call["token"], call["mine"]) for call in calls(tmp_path)] == [(CANARY, "from-a-secret")] * 2

    checking, training = (request.function for request in server.asked(api_pb2.FunctionCreateRequest))
    assert (training.resources.gpu_config.gpu_type, training.resources.gpu_config.count) == ("H100", 2)
    assert (training.timeout_secs, training.retry_policy.retries) == (2 * 3600 + 600, 5)
    assert (checking.resources.gpu_config.count, checking.retry_policy.retries) == (0, 0)
    for function in (checking, training):
        assert [mount.mount_path for mount in function.volume_mounts] == [modal_app.MODELS]
        assert function.volume_mounts[0].allow_background_commits
        assert len(function.secret_ids) == 2
        assert "st-mine" in function.secret_ids
        assert function.untrusted
        assert function.single_use_containers
    (volume,) = server.asked(api_pb2.VolumeGetOrCreateRequest)
    assert volume.deployment_name == "graft-models"

    # The credentials are in the one Secret that is made for them, and nowhere else.
    holders = {type(request).__name__ for request in server.requests if CANARY.encode() in request.SerializeToString()}
    assert holders == {"SecretGetOrCreateRequest"}
    made = [request for request in server.asked(api_pb2.SecretGetOrCreateRequest) if not request.deployment_name]
    assert [dict(request.env_dict) for request in made] == [{name: value for name, value in SETTINGS.items() if value}]
    assert CANARY not in output + json.dumps([call["cmdlines"] for call in calls(tmp_path)])


def test_a_check_that_fails_asks_for_no_gpu_and_ends_with_its_exit_code(start, server):
    server.container_env["CHECK"] = "65"

    code, output = ended(start())

    assert code == 65
    assert "no GPU was asked for" in output
    assert "failed (65): So it ended." in output
    assert [request.function_id for request in server.asked(api_pb2.FunctionMapRequest)] == ["fu-check"]


def test_the_builder_gets_the_dockerfile_and_every_file_that_it_copies(start, server):
    server.container_env["CHECK"] = "65"  # that is all it takes

    assert ended(start())[0] == 65

    images = server.asked(api_pb2.ImageGetOrCreateRequest)
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert list(images[0].image.dockerfile_commands) == dockerfile.split("\n")
    assert list(images[-1].image.dockerfile_commands)[-1] == "ENTRYPOINT []"
    sent = max(
        ([file.filename for file in request.files] for request in server.asked(api_pb2.MountGetOrCreateRequest)),
        key=len,
    )
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, re.MULTILINE)
    wanted = [place for places in copied for place in places.split()]
    assert len(wanted) > 5
    assert [place for place in wanted if not any(file.startswith(f"/{place}") for file in sent)] == []
    assert [file for file in sent if "/." in file or "__pycache__" in file] == []


def test_modal_runs_again_what_may_succeed_then_and_a_permanent_failure_spends_no_retry(start, server, tmp_path):
    server.container_env["CODES"] = "83,92"

    code, output = ended(start())

    assert code == 92
    assert [call["argv"][0] for call in calls(tmp_path)] == ["check", "run", "run"]
    assert "failed (92): So it ended." in output
    assert [request.outputs[0].result.status for request in server.asked(api_pb2.FunctionPutOutputsRequest)] == [
        api_pb2.GenericResult.GENERIC_STATUS_SUCCESS,
        api_pb2.GenericResult.GENERIC_STATUS_FAILURE,
        api_pb2.GenericResult.GENERIC_STATUS_SUCCESS,
    ]


def test_retries_that_are_all_spent_end_as_the_last_attempt_did(start, server, tmp_path):
    server.container_env["CODES"], server.retries = "84", 1

    code, output = ended(start())

    assert (code, len(calls(tmp_path))) == (84, 3)
    assert "failed (84): So it ended." in output
    assert "result:" not in output


def test_a_container_that_is_taken_away_saves_and_another_goes_on_without_a_retry(start, server, tmp_path):
    server.container_env["CODES"] = "wait,0"
    process = start()
    while not (tmp_path / "calls").exists() or len(calls(tmp_path)) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)

    server.preempt()

    code, output = ended(process)
    assert code == 0, output
    assert [call["argv"][0] for call in calls(tmp_path)] == ["check", "run", "run"]
    assert '"code": 75' in output
    assert len(server.asked(api_pb2.FunctionPutOutputsRequest)) == 2


def test_an_unknown_secret_is_named_and_nothing_is_run(start, server):
    code, output = ended(start("--secret", "nobodys"))

    assert code == 1
    assert "'nobodys'" in output
    assert server.asked(api_pb2.FunctionMapRequest) == []
    assert CANARY not in output


@pytest.mark.parametrize(
    ("words", "more", "status", "says"),
    [
        ((), {"JOB_LEARNING_RAET": "1"}, 78, "JOB_LEARNING_RAET is not a setting. Did you mean JOB_LEARNING_RATE?"),
        ((), {"JOB_DATASET_URI": "./rows.jsonl"}, 78, "JOB_DATASET_URI=./rows.jsonl is a place on this machine"),
        (("--env-file", "nowhere.env"), {}, 78, "--env-file nowhere.env cannot be read: No such file or directory."),
        (("--gpus", "H100"), {}, 2, "unrecognized arguments: --gpus H100"),
    ],
)
def test_what_cannot_succeed_is_refused_before_anything_is_made_at_modal(start, server, words, more, status, says):
    code, output = ended(start(*words, **more))

    assert (code, server.requests) == (status, [])
    assert says in output
    assert CANARY not in output
    assert "Traceback" not in output


def test_help_needs_no_modal(start, server):
    code, output = ended(start("--help"))

    assert (code, server.requests) == (0, [])
    assert "--secret NAME" in output


def test_the_real_job_refuses_in_its_check_what_is_not_there(start, server, s3_server):
    server.container_env["GRAFT_ENTRYPOINT"] = str(ROOT / "entrypoint.py")
    store = {name: os.environ[name] for name in os.environ if name.startswith("AWS_") and not name.endswith("_FILE")}

    code, output = ended(start(JOB_MODEL="s3://bucket/base", JOB_WORK_DIR="", **store))

    assert code == 66, output
    assert "s3://bucket/base" in output
    assert [request.function_id for request in server.asked(api_pb2.FunctionMapRequest)] == ["fu-check"]
    assert store["AWS_SECRET_ACCESS_KEY"] not in output


@pytest.mark.parametrize("one", ERROR_CLASSES, ids=lambda one: one.__name__)
def test_a_retry_is_asked_for_only_where_the_exit_code_says_that_it_may_help(job, monkeypatch, one):
    monkeypatch.setenv("CODES", str(one.exit_code))

    if one.retry in ("never", "operator"):
        assert modal_app.train(60)["code"] == one.exit_code
    else:
        with pytest.raises(modal_app.RunAgain) as again:
            modal_app.train(60)
        assert again.value.args[0]["code"] == one.exit_code


def test_a_job_that_leaves_no_outcome_is_run_again(job, monkeypatch):
    monkeypatch.setenv("CODES", "silent")

    with pytest.raises(modal_app.RunAgain, match="ended with 1 and left no outcome"):
        modal_app.train(60)


def test_a_job_is_stopped_before_modal_would_kill_it_and_goes_on_with_a_retry(job, monkeypatch):
    monkeypatch.setenv("CODES", "wait")

    with pytest.raises(modal_app.RunAgain) as again:
        modal_app.train(1)

    assert again.value.args[0]["code"] == 75


def test_signals_are_as_they_were_when_the_job_has_ended(job):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    modal_app.train(60)

    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_volume_is_where_the_image_keeps_models(tmp_path):
    (work_dir,) = re.findall(r"JOB_WORK_DIR=(\S+)", (ROOT / "Dockerfile").read_text())
    spec = load_spec(SETTINGS | {"JOB_WORK_DIR": work_dir})
    with StopRequest() as stop:
        shop = open_workshop(spec, {}, tmp_path / "log", stop, lambda *_: None)

    assert str(shop.cache / "models") == modal_app.MODELS
