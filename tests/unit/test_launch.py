"""The launcher's command line and environment, and what becomes of child processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from job.child import as_job_error
from job.errors import BadData, Bug, DeadlineReached, GpuFault, Interrupted, UnsuitableHost
from job.launch import launch_command, launch_env
from job.preparation import open_workshop
from job.processes import Child, StopRequest, Task, adopt_orphans, child_error, end_descendants, kill_descendants
from job.records import Plan, WorkerError
from job.rundir import RunDir, write_json
from job.spec import JobSpec
from tests.tiny import ROOT

RUN_DIR = RunDir(Path("/run"))


def plan(**settings: object) -> Plan:
    defaults = {
        "strategy": "single", "num_processes": 1, "precision": "bf16", "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1, "global_batch_size": 1, "packing": False, "gradient_checkpointing": True,
        "max_length": 8, "use_gpu": True, "reasons": {},
    }  # fmt: skip
    return Plan(**(defaults | settings))


def test_the_process_count_is_never_left_to_a_config_file():
    command = launch_command(plan(strategy="ddp", num_processes=4), RUN_DIR)

    assert command[command.index("--num_processes") + 1] == "4"
    assert command[command.index("--mixed_precision") + 1] == "bf16"
    assert command[command.index("--config_file") + 1].endswith("ddp.yaml")
    assert command[-3:] == ["-m", "job.train", "/run"]


@pytest.mark.parametrize(("visible", "expected"), [(None, "0"), ("3,1", "3"), ("GPU-aa,GPU-bb", "GPU-aa")])
def test_a_single_process_sees_a_single_gpu(visible, expected):
    env = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}

    assert launch_env(plan(), env, RUN_DIR)["CUDA_VISIBLE_DEVICES"] == expected


def test_workers_are_offline_and_know_when_there_is_no_gpu():
    env = launch_env(plan(strategy="cpu", use_gpu=False), {"PATH": "/bin"}, RUN_DIR)

    assert env["HF_HUB_OFFLINE"] == "1"
    assert env["ACCELERATE_USE_CPU"] == "true"
    assert "CUDA_VISIBLE_DEVICES" not in env


@pytest.mark.parametrize(
    ("strategy", "flag", "kept", "offloaded"),
    [("fsdp", "--fsdp_offload_params", "false", "true"), ("zero3", "--offload_param_device", "none", "cpu")],
)
def test_the_plan_says_where_the_base_lives(strategy, flag, kept, offloaded):
    for cpu_offload, expected in ((False, kept), (True, offloaded)):
        planned = plan(strategy=strategy, num_processes=2, cpu_offload=cpu_offload)
        command = launch_command(planned, RUN_DIR)

        assert command[command.index(flag) + 1] == expected


def test_workers_are_told_what_the_machine_needs():
    env = launch_env(plan(worker_env={"NCCL_P2P_DISABLE": "1"}), {"NCCL_P2P_DISABLE": "0"}, RUN_DIR)

    assert env["NCCL_P2P_DISABLE"] == "1"


def test_child_processes_get_no_settings_and_no_credentials():
    spec = JobSpec(model="org/m", dataset_uri="org/d")
    secrets = dict.fromkeys(["HF_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"], "secret")

    with StopRequest() as stop:
        shop = open_workshop(spec, {"PATH": "/bin", "JOB_MODEL": "org/m", **secrets}, Path("/log"), stop, print)

    assert set(shop.env) == {"PATH", "PYTHONPATH"}


def report(path: Path, code: int, cause: str, rank: int, moment: float) -> Path:
    write_json(path, WorkerError(code=code, cause=cause, fix="", rank=rank, time=moment, traceback="Traceback …"))
    return path


def test_the_earliest_report_is_the_root_cause(tmp_path):
    errors = [
        report(tmp_path / "rank0.json", 70, "connection closed by peer", 0, 20.0),
        report(tmp_path / "rank1.json", 65, "row 3 is broken", 1, 10.0),
        tmp_path / "rank2.json",
    ]

    error = child_error(errors, 1, "training", tmp_path / "log", GpuFault)

    assert isinstance(error, BadData)
    assert error.cause == "row 3 is broken"
    assert error.__notes__ == ["Traceback …"]


def test_a_child_that_died_without_a_report_is_described_by_its_end(tmp_path):
    (tmp_path / "log").write_text("starting\nImportError: no module named x\n")

    killed = child_error([], -signal.SIGSEGV, "training", tmp_path / "log", GpuFault)
    failed = child_error([], 1, "training", tmp_path / "log", GpuFault)

    assert (type(killed), "SIGSEGV" in killed.cause) == (GpuFault, True)
    assert (type(failed), "ImportError" in failed.cause) == (Bug, True)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BadData("x"), BadData),
        (OSError(28, "No space left on device", "/workspace/x"), UnsuitableHost),
        (KeyError("x"), Bug),
    ],
)
def test_exceptions_are_classified(error, kind):
    assert isinstance(as_job_error(error), kind)


def test_a_task_hands_over_its_value_or_its_error():
    stop = StopRequest()

    assert Task(lambda: 7).result(stop) == 7
    with pytest.raises(ZeroDivisionError):
        Task(lambda: 1 / 0).result(stop)


def test_a_signal_ends_the_wait_for_a_task_that_hangs():
    with StopRequest() as stop:
        task = Task(lambda: time.sleep(60))
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(Interrupted, match="SIGTERM"):
            task.result(stop)


@pytest.mark.parametrize(("before", "heard"), [(signal.SIG_DFL, signal.SIGHUP), (signal.SIG_IGN, None)])
def test_a_hangup_asks_to_stop_unless_it_was_ignored_at_the_start(before, heard):
    around = signal.signal(signal.SIGHUP, before)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.signal == heard
        assert signal.getsignal(signal.SIGHUP) == before
    finally:
        signal.signal(signal.SIGHUP, around)


def test_a_limit_of_time_ends_what_is_waited_for_as_a_signal_does():
    stop, late = StopRequest(), DeadlineReached("JOB_MAX_HOURS=1 is reached.")
    stop.limit(time.monotonic() + 0.2, late)
    began = time.monotonic()

    with pytest.raises(DeadlineReached):
        Task(lambda: time.sleep(5)).result(stop)

    assert time.monotonic() - began < 2
    stop.lift_limit()
    stop.check()


def test_what_is_nearly_done_may_use_the_grace_of_a_signal():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)

        assert Task(lambda: time.sleep(0.3) or "done").result(stop, patience_s=5) == "done"
        with pytest.raises(Interrupted):
            Task(lambda: time.sleep(5)).result(stop, patience_s=0.5)


def test_a_signal_ends_a_child(tmp_path):
    with StopRequest() as stop:
        module = tmp_path / "sleeper.py"
        module.write_text("import time\ntime.sleep(60)\n")
        child = Child(
            "sleeper", [], tmp_path / "error.json", tmp_path / "log", os.environ | {"PYTHONPATH": str(tmp_path)}
        )
        os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(Interrupted):
            child.wait(stop)
    assert psutil.Process().children() == []


WAITS_FOR_A_CHILD = """
import os, pathlib, sys
from job.processes import Child, StopRequest
folder = pathlib.Path(sys.argv[1])
(folder / "sleeper.py").write_text("import time; time.sleep(60)")
Child("sleeper", [], folder / "error", folder / "log", os.environ | {"PYTHONPATH": sys.argv[1]}).wait(StopRequest())
"""


def test_a_child_dies_with_the_process_that_started_it(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", WAITS_FOR_A_CHILD, str(tmp_path)], cwd=ROOT)
    until = time.monotonic() + 20
    while not (children := psutil.Process(parent.pid).children()) and time.monotonic() < until:
        time.sleep(0.05)

    parent.kill()
    parent.wait()

    assert len(children) == 1
    assert psutil.wait_procs(children, timeout=5)[1] == []


ORPHANS = """
import subprocess, sys, time
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True)
time.sleep(float(sys.argv[1]))
"""


@pytest.mark.parametrize("parent_lives_s", [0.3, 60], ids=["orphaned", "with its parent"])
def test_no_process_is_left_behind_even_one_that_ignores_sigterm(parent_lives_s):
    adopt_orphans()
    parent = subprocess.Popen([sys.executable, "-c", ORPHANS, str(parent_lives_s)], start_new_session=True)
    time.sleep(1.0)

    end_descendants()

    parent.wait(5)
    assert psutil.Process().children(recursive=True) == []


def test_a_stopped_process_is_killed_without_waiting_for_it_to_obey():
    process = subprocess.Popen([sys.executable, "-c", ORPHANS, "60"], start_new_session=True)
    time.sleep(0.5)
    process.send_signal(signal.SIGSTOP)
    began = time.monotonic()

    kill_descendants()

    assert time.monotonic() - began < 1
    assert psutil.Process().children(recursive=True) == []


def test_what_is_compiled_stays_with_the_run_unless_there_is_a_place_for_it():
    assert launch_env(plan(), {}, RUN_DIR)["TORCH_EXTENSIONS_DIR"] == "/run/torch_extensions"
    assert launch_env(plan(), {"TORCH_EXTENSIONS_DIR": "/kept"}, RUN_DIR)["TORCH_EXTENSIONS_DIR"] == "/kept"
