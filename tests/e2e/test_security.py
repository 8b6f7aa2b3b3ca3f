"""What docs/security.md promises of a whole run: credentials turn up nowhere, code that came with a model never runs,
and the rights in deploy/iam are enough and none too many."""

import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest

from tests.e2e.canaries import CANARIES, Descendants, files_under, leaks, planted
from tests.e2e.hostile_model import hostile_files
from tests.e2e.job import Ended, end, start
from tests.iam import allowed, granted, load_policies, needed
from tests.servers.s3_server import REGION, Request
from tests.tiny import ROOT

pytestmark = pytest.mark.slow

FAULTS = str(ROOT / "tests" / "fakes" / "faults")


@dataclass(frozen=True)
class Watched:
    """A run that is over: how it ended, all that can be seen of it, and what it asked of the store."""

    ended: Ended
    places: dict[str, bytes]
    modules: set[str]
    requests: list[Request]
    leaked_to_storage: list[str]
    marks: Path


@pytest.fixture(scope="module")
def watch(running_s3_server, running_hub_server, rows, tiny_model, tmp_path_factory):
    """Runs a job from a hostile model on the Hub and rows in S3 to S3, with a canary in every credential."""

    def run(**settings: str) -> Watched:
        s3, hub, folder = running_s3_server, running_hub_server, tmp_path_factory.mktemp("watched")
        (marks := folder / "marks").mkdir()
        s3.reset()
        hub.reset()
        s3.make_bucket("bucket")
        s3.put("bucket", "data/rows.jsonl", rows.read_bytes())
        hub.add("org/base", hostile_files(tiny_model, marks), private=True)
        env = planted() | {
            "AWS_ENDPOINT_URL": s3.url, "AWS_DEFAULT_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true",
            "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HOME": str(folder / "hf"), "HOME": str(folder), "OMP_NUM_THREADS": "1",
            "JOB_MODEL": "org/base", "JOB_DATASET_URI": "s3://bucket/data/rows.jsonl",
            "JOB_COLUMNS": "prompt=question,completion=answer", "JOB_OUTPUT_URI": "s3://bucket/runs/one",
            "JOB_WORK_DIR": str(folder / "work"), "JOB_MAX_STEPS": "4", "JOB_GLOBAL_BATCH_SIZE": "8",
            "JOB_MAX_LENGTH": "256", "JOB_LEARNING_RATE": "1e-2", "JOB_SAVE_STEPS": "1", "JOB_SAVE_TOTAL_LIMIT": "1",
            "JOB_DEBUG": "true", "JOB_LOG_LEVEL": "debug",
        } | settings  # fmt: skip
        _leave_upload_open(s3.url)
        s3.requests.clear()
        process = start(env)
        (descendants := Descendants(process.pid)).start()
        ended = end(process, time.monotonic())
        descendants.stop()
        stored = {f"s3://bucket/{key}": data for key, data in s3.keys("bucket").items()}
        shown = {"stdout": ended.printed.encode(), "stderr": ended.shown.encode()}
        places = shown | stored | files_under(folder) | descendants.seen
        return Watched(ended, places, descendants.modules, list(s3.requests), list(hub.leaked), marks)

    return run


def _leave_upload_open(url: str) -> None:
    """As an attempt does that is killed while it uploads a large file."""
    keys = {f"aws_{name}": CANARIES[f"AWS_{name.upper()}"] for name in ("access_key_id", "secret_access_key")}
    client = boto3.client("s3", endpoint_url=url, region_name=REGION, **keys)
    client.create_multipart_upload(Bucket="bucket", Key="runs/one/checkpoints/step-00000001/optimizer.pt")


@pytest.fixture(scope="module")
def succeeded(watch) -> Iterator[Watched]:
    run = watch()
    assert run.ended.code == 0, run.ended.shown
    return run


def test_what_searches_for_canaries_finds_them():
    found = leaks({"a header": b"x-amz-security-token: canary+session/token==", "a url": b"?t=canary%2Bsession%2Ftoken"
                   b"%3D%3D&x", "a page": b"nothing"})  # fmt: skip

    assert found == ["AWS_SESSION_TOKEN in a header", "AWS_SESSION_TOKEN in a url"]


def test_a_run_that_succeeds_leaves_no_credential_anywhere(succeeded):
    assert leaks(succeeded.places) == []
    assert succeeded.leaked_to_storage == []
    names = {place.rpartition("/")[2] for place in succeeded.places}
    assert {"stdout", "stderr", "log.jsonl", "plan.json", "README.md", "report.html", "metrics.json", "manifest.json",
            "adapter_model.safetensors", "outcome.json", "status.json", "run.json"} <= names  # fmt: skip
    assert {"job.prepare", "job.train", "job.evaluate"} <= succeeded.modules


def test_a_run_that_breaks_down_leaves_no_credential_anywhere(watch):
    run = watch(FAKE_FAULT="bug@2", PYTHONPATH=FAULTS)

    assert run.ended.code == 70, run.ended.shown
    assert "Traceback" in run.ended.shown
    assert leaks(run.places) == []


def test_what_a_hostile_model_brings_leaves_its_mark_where_it_is_run(tiny_model, tmp_path):
    files = hostile_files(tiny_model, tmp_path)
    for name, content in files.items():
        if name.endswith(".py"):
            exec(content)
        elif name.endswith((".bin", ".pt")):
            pickle.loads(content)

    assert len([*tmp_path.iterdir()]) == len([name for name in files if name.endswith((".py", ".bin", ".pt"))]) > 10


def test_nothing_that_came_with_a_model_is_run_in_any_process(succeeded):
    assert [mark.name for mark in succeeded.marks.iterdir()] == []


def test_of_a_model_only_configuration_and_safetensors_are_fetched(succeeded):
    cached = {place.rpartition("/")[2] for place in succeeded.places if "/work/cache/models/" in place}

    assert {"config.json", "model.safetensors"} <= cached
    assert [name for name in cached if not name.endswith((".json", ".jinja", ".model", ".txt", ".safetensors"))] == []


def test_the_policies_allow_all_that_a_run_asks_of_s3(succeeded):
    policies = load_policies()

    assert [str(one) for one in map(needed, succeeded.requests) if not allowed(one, policies)] == []


def test_the_policies_grant_nothing_that_a_run_does_not_use(succeeded):
    used = {action for one in succeeded.requests for action in [needed(one).action]}

    assert granted(load_policies()) == used
