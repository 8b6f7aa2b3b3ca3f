"""A machine that cannot do the job is refused before anything is fetched, with what is wrong and what to do."""

import json
import os
import signal
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as to
from cryptography.hazmat.primitives.asymmetric import ec

from tests.e2e.job import Ended, end, run, run_and_signal, start
from tests.servers.faults import start as serve
from tests.servers.faults import stop
from tests.tiny import ROOT

A100 = {"name": "NVIDIA A100-SXM4-80GB", "capability": [8, 0]}
V100 = {"name": "Tesla V100-SXM2-16GB", "capability": [7, 0], "total": 16 * 2**30}
CUDA_13 = {"version": "2.13.0+cu130", "cuda": "13.0", "archs": ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]}


def machine(**facts: Any) -> dict[str, str]:
    """The environment in which the program meets one A100 in good health, but for *facts*."""
    host = {"gpus": [A100], "driver": "580.95.05", "cuda": 13000, "free": {}, "torch": CUDA_13} | facts
    path = [ROOT / "tests" / "fakes" / "host", ROOT]
    return {"FAKE_HOST": json.dumps(host), "PYTHONPATH": os.pathsep.join(map(str, path))}


FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "driver": (
        {"driver": "550.54.15", "cuda": 12040},
        "The NVIDIA driver 550.54.15 runs CUDA 12.4 and older; torch 2.13.0+cu130 is built for CUDA 13.0.",
        "Use a machine whose driver is 580 or newer.",
    ),
    "torch without CUDA": (
        {"torch": {"version": "2.13.0+cpu", "cuda": None, "archs": []}},
        "This machine has 1 GPU, but torch 2.13.0+cpu is built without CUDA.",
        "Use the job's image, install a torch with CUDA, or set JOB_STRATEGY=cpu.",
    ),
    "architecture": (
        {"gpus": [V100]},
        "torch 2.13.0+cu130 has no code for Tesla V100-SXM2-16GB (compute capability 7.0); it is built for sm_75, "
        "sm_80, sm_86, sm_90, sm_100, sm_120.",
        "Use a GPU of one of these kinds, or an image with a torch that is built for this one.",
    ),
    "shared memory": (
        {"gpus": [A100] * 2, "free": {"/dev/shm": 64 * 2**20}},
        "/dev/shm has 64 MiB left; NCCL needs 128 MiB between 2 GPUs.",
        "Start the container with --shm-size=1g or --ipc=host; on Kubernetes mount an emptyDir with `medium: Memory` "
        "at /dev/shm.",
    ),
    "occupied": (
        {"gpus": [A100, A100 | {"used": 30 * 2**30, "pids": [4242]}]},
        "GPU 1 (NVIDIA A100-SXM4-80GB) is occupied: 30.0 of its 80.0 GiB are held by process 4242.",
        "End what runs there, or leave that GPU out with CUDA_VISIBLE_DEVICES.",
    ),
    "ECC": (
        {"gpus": [A100 | {"ecc_errors": 3}]},
        "GPU 0 (NVIDIA A100-SXM4-80GB) has had 3 memory errors that ECC could not correct.",
        "Use another machine; on this one `nvidia-smi --gpu-reset` may help.",
    ),
    "row remapping": (
        {"gpus": [A100 | {"remapped": [0, 1, 0, 1]}]},
        "GPU 0 (NVIDIA A100-SXM4-80GB) has broken memory that it could not replace (row remapping failed).",
        "Use another machine; this GPU is due for replacement.",
    ),
    "lost": (
        {"gpus": [A100 | {"lost": True}]},
        "The NVIDIA driver lists a GPU that does not answer (GPU is lost).",
        "Use another machine; on this one `nvidia-smi` tells which GPU it is, and a reboot may bring it back.",
    ),
}


def assert_refused_without_a_trace(ended: Ended, tmp_path: Path) -> None:
    assert ended.code == 80, ended.shown
    assert (ended.outcome["class"], ended.outcome["phase"]) == ("UnsuitableHost", "inspect")
    assert not (tmp_path / "work").exists()
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_machine_is_80_with_its_fix(fault, env, tmp_path):
    facts, cause, fix = FAULTS[fault]

    ended = run(env | machine(**facts))

    assert (ended.outcome["cause"], ended.outcome["fix"]) == (cause, fix)
    assert_refused_without_a_trace(ended, tmp_path)


def test_a_disk_that_is_too_small_for_the_job_is_80_even_where_its_folders_are_yet_to_be_made(env, tmp_path):
    ended = run(env | {"JOB_LORA_R": "16384"} | machine(free={str(tmp_path): 2**28}))

    assert ended.outcome["cause"].startswith(
        f"The disk of JOB_WORK_DIR={tmp_path}/work and JOB_OUTPUT_URI={tmp_path}/output has 256.0 MiB left; "
    )
    assert ended.outcome["fix"] == "Use a machine with more, or point JOB_WORK_DIR and JOB_OUTPUT_URI at a larger disk."
    assert_refused_without_a_trace(ended, tmp_path)


def test_all_faults_are_told_at_once(env, tmp_path):
    sick = {"gpus": [V100 | {"used": 9 * 2**30}, V100 | {"ecc_errors": 1}], "driver": "470.57.02", "cuda": 11040}

    ended = run(env | machine(**sick, free={"/dev/shm": 0, str(tmp_path): 0}))

    assert_refused_without_a_trace(ended, tmp_path)
    for word in (
        "6 faults",
        "driver 470.57.02",
        "no code for Tesla V100",
        "/dev/shm",
        "GPU 0",
        "GPU 1",
        "JOB_WORK_DIR",
    ):
        assert word in ended.outcome["cause"]


def test_a_sick_machine_can_still_upload_what_it_has_trained(env, s3_server):
    settings = {"JOB_OUTPUT_URI": "s3://bucket/out"}
    s3_server.faults.plan(method="PUT|POST", path="adapter_model", times=1000)
    assert run(env | settings).code == 84
    s3_server.faults.clear()

    ended = run(env | settings | machine(**FAULTS["ECC"][0]))

    assert ended.code == 0, ended.shown


def test_check_finds_what_the_run_would_find(env, tmp_path):
    ended = end(start(env | machine(**FAULTS["driver"][0]), "check"), 0)

    assert (ended.code, ended.outcome["cause"]) == (80, FAULTS["driver"][1])


def test_gpus_that_are_not_here_are_not_judged_by_the_machine_that_is(env):
    ended = end(start(env | machine(**FAULTS["driver"][0]), "check", "--gpus", "2xA100-80GB"), 0)

    assert ended.code == 0, ended.shown


@pytest.mark.parametrize("ahead_s", [-1200, 1200])
def test_a_clock_that_the_store_refuses_is_80(env, s3_server, ahead_s):
    s3_server.put("bucket", "rows.jsonl", b'{"question": "1+1", "answer": "2"}\n')
    s3_server.ahead_s = -ahead_s

    ended = run(env | {"JOB_DATASET_URI": "s3://bucket/rows.jsonl"})

    assert ended.code == 80, ended.shown
    side = "ahead of" if ahead_s > 0 else "behind"
    assert f"20 minutes {side} that of s3://bucket" in ended.outcome["cause"]
    assert ended.outcome["fix"] == "Set the clock of this machine (NTP), or use another machine."


@pytest.fixture
def future_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both SDKs trust the one certificate of the server that they are pointed at. It is valid from tomorrow on."""
    server = serve(lambda *_: [], tls=_tls_from_tomorrow(tmp_path))
    url, authority = f"https://localhost:{server.server_port}", str(tmp_path / "tls.pem")
    names = {"AWS_ENDPOINT_URL": url, "AWS_CA_BUNDLE": authority, "HF_ENDPOINT": url, "SSL_CERT_FILE": authority}
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in (names | keys | {"AWS_MAX_ATTEMPTS": "1"}).items():
        monkeypatch.setenv(name, value)
    yield
    stop(server)


def _tls_from_tomorrow(folder: Path) -> ssl.SSLContext:
    key, tomorrow = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC) + timedelta(days=1)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(tomorrow)
        .not_valid_after(tomorrow + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = key.private_bytes(to.Encoding.PEM, to.PrivateFormat.PKCS8, to.NoEncryption())
    (folder / "tls.pem").write_bytes(certificate.public_bytes(to.Encoding.PEM) + plain)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "tls.pem")
    return context


@pytest.mark.parametrize("uri", ["s3://bucket/rows.jsonl", "hf://datasets/org/rows"])
def test_a_clock_from_before_the_stores_certificate_is_80_and_not_a_bad_network(env, future_store, uri):
    ended = run(env | {"JOB_DATASET_URI": uri})

    assert ended.code == 80, ended.shown
    assert f"is behind: the certificate of {uri} is not valid yet" in ended.outcome["cause"]
    assert ended.seconds < 20, "nothing is tried again"


def test_gpus_that_cannot_talk_to_each_other_are_81_after_both_ways_were_tried(env, tmp_path):
    """No GPU is behind the machine described here, so that NCCL fails in earnest."""
    ended = run(env | machine(gpus=[A100] * 2))

    assert (ended.code, ended.outcome["class"]) == (81, "GpuFault"), ended.shown
    assert "The 2 GPUs cannot add up a tensor between them: " in ended.outcome["cause"]
    assert "; with NCCL_P2P_DISABLE=1: " in ended.outcome["cause"]
    assert "JOB_NUM_PROCESSES=1" in ended.outcome["fix"]
    assert not (tmp_path / "output" / "manifest.json").exists()


def test_a_signal_ends_the_talk_between_gpus_and_leaves_no_process(env, tmp_path):
    links = f"{tmp_path}/work"

    def talking() -> bool:
        return bool(_processes("job.probe.all_reduce", links))

    ended = run_and_signal(env | machine(gpus=[A100] * 2), talking, signal.SIGTERM)

    assert ended.code == 75, ended.shown
    assert not talking()


def _processes(*words: str) -> list[psutil.Process]:
    lines = {process: " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])}
    return [process for process, line in lines.items() if all(word in line for word in words)]
