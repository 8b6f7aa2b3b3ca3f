"""What a rerun on the same machine finds there, and what it must not destroy."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.world import kill_tree, wait_until
from tests.e2e.job import end, logged, run, run_and_act, run_and_signal, start
from tests.servers.faults import FOREVER
from tests.tiny import ROOT

pytestmark = pytest.mark.slow

FAULTS = {"PYTHONPATH": str(ROOT / "tests" / "fakes" / "faults"), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def s3_env(env: dict[str, str], s3_server: Any) -> dict[str, str]:
    return env | FAULTS | {"JOB_OUTPUT_URI": "s3://bucket/out", "JOB_SAVE_STEPS": "2", "JOB_KEEP_CHECKPOINTS": "1"}


def durable(server: Any) -> list[int]:
    keys = [key for key in server.keys("bucket") if "checkpoints/" in key and key.endswith("manifest.json")]
    return sorted(int(key.split("step-")[1].split("/")[0]) for key in keys)


def saved(work_dir: Path, step: int) -> Callable[[], bool]:
    return lambda: any(work_dir.glob(f"runs/*/checkpoints/checkpoint-{step}/layout.json"))


def killed(env: dict[str, str], when: Callable[[], bool]) -> None:
    """Run, and kill everything at once when *when* holds."""
    process = start(env)
    wait_until(process, when)
    kill_tree(process)


def test_a_rerun_with_a_typo_is_refused_and_leaves_the_trained_result(s3_env, s3_server):
    s3_server.faults.plan(method="PUT|POST", path="out/adapter/", times=FOREVER)
    failed = run(s3_env)
    assert failed.code == 84, failed.shown
    assert durable(s3_server)

    refused = run(s3_env | {"JOB_SEED": "7"})

    assert refused.code == 73, refused.shown
    assert "JOB_SEED was 42 and is 7" in refused.outcome["cause"]
    s3_server.faults.clear()
    rerun = run(s3_env)
    assert rerun.code == 0, rerun.shown
    assert "only the upload is left" in rerun.shown
    assert "training:" not in rerun.shown


def test_a_checkpoint_that_never_left_this_machine_is_gone_on_from_and_pushed(s3_env, s3_server, tmp_path):
    s3_server.faults.plan(method="PUT|POST", path="checkpoints/step-0000000[4-9]", times=FOREVER)
    slow = s3_env | {"JOB_MAX_STEPS": "8", "FAKE_STEP_S": "0.3"}
    killed(slow, saved(tmp_path / "work", 4))
    assert set(durable(s3_server)) <= {2}
    s3_server.faults.clear()

    rerun = run(slow)

    assert rerun.code == 0, rerun.shown
    assert "going on from step 4, which is on this machine only so far" in rerun.shown
    assert 4 in durable(s3_server)
    metrics = json.loads(s3_server.keys("bucket")["out/metrics.json"])
    assert (metrics["train"]["steps"], metrics["attempts"]["resumed_at_step"]) == (8, 4)

    calm = run(slow | {"JOB_OUTPUT_URI": "s3://bucket/calm", "FAKE_STEP_S": "0"})
    assert calm.code == 0, calm.shown
    adapters = [s3_server.keys("bucket")[f"{name}/adapter/adapter_model.safetensors"] for name in ("out", "calm")]
    assert adapters[0] == adapters[1]


def test_after_a_success_nothing_of_it_is_gone_on_from(env, tmp_path):
    """Who removes the output wants another training."""
    local = env | {"JOB_SAVE_STEPS": "2"}
    assert run(local).code == 0
    (tmp_path / "output").rename(tmp_path / "before")

    again = run(local)

    assert again.code == 0, again.shown
    assert "going on from" not in again.shown


def test_whatever_fails_after_training_its_newest_checkpoint_is_pushed(s3_env, s3_server, tmp_path):
    """Here a report cannot be written, while a slow store still takes the checkpoint before."""
    s3_server.faults.plan("slow", path="step-00000002/adapter_model", seconds=4, times=1)

    def in_the_way(_: object) -> None:
        (run_dir,) = (tmp_path / "work" / "runs").glob("*/")
        (run_dir / "dataset_report.json").mkdir()

    ended = run_and_act(s3_env | {"JOB_MAX_STEPS": "5"}, lambda: logged(tmp_path / "work", "first_step"), in_the_way)

    assert ended.code == 70, ended.shown
    assert max(durable(s3_server)) >= 4
    assert ended.outcome["last_durable_step"] == max(durable(s3_server))


def test_a_replacement_waits_for_the_attempt_before_which_still_ends(s3_env, s3_server, tmp_path):
    """It shares the folder with it, and comes while a slow store takes the last checkpoint."""
    endless = s3_env | {"JOB_MAX_STEPS": "100000", "JOB_SAVE_STEPS": "50000"}
    before, began = start(endless), time.monotonic()
    wait_until(before, lambda: logged(tmp_path / "work", "first_step"))
    s3_server.faults.plan("slow", method="PUT|POST", path="checkpoints/.*/adapter_model", seconds=10, times=1)
    before.send_signal(signal.SIGTERM)

    replacement = run_and_signal(
        endless, lambda: "out/attempts/0002/claim.json" in s3_server.keys("bucket"), signal.SIGTERM
    )

    assert end(before, began).code == 75
    assert replacement.code == 75, replacement.shown
