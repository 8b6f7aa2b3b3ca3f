"""What of a machine is a fault, and what is not: judged on facts made by hand."""

import ssl
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from job.disk import Disk, adapter_bytes, disks_used
from job.facts.gpus import parse_gpus
from job.host import disk_faults, gpu_faults, runs_on, training_gpus
from job.inputs import Source, find_dataset, find_model
from job.inspection import Inputs
from job.own_rundir import find_run_dir
from job.records import Gpu, HardwareFacts, ModelFacts, TensorGroup, TorchBuild
from job.spec import JobSpec
from job.storage import StoredFile
from job.storage.clock import clock_before_certificate, seconds_ahead, wrong_clock
from job.uri import S3Uri
from tests.unit.test_facts import make_model, write_safetensors

CUDA_13 = TorchBuild(
    version="2.13.0+cu130", cuda="13.0", archs=("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
)
HEALTHY = Gpu(name="NVIDIA L4", memory_gib=22.5, compute_capability=(8, 9), ecc_errors=0)


def faults(*gpus: Gpu, build: TorchBuild = CUDA_13, **facts: object) -> list[str]:
    hardware = HardwareFacts(**({"gpus": gpus, "driver": "580.95.05", "cuda": (13, 0), "shm_gib": 1.0} | facts))
    return [fault.cause for fault in gpu_faults(hardware, build)]


def test_a_machine_in_good_health_has_no_faults():
    assert faults(HEALTHY) == []
    assert faults(*[HEALTHY] * 8) == []


@pytest.mark.parametrize("cuda", [(13, 0), (13, 2), (14, 1), None], ids=str)
def test_a_driver_of_the_same_major_version_or_a_later_one_will_do(cuda):
    assert faults(HEALTHY, cuda=cuda, build=CUDA_13.model_copy(update={"cuda": "13.1"})) == []


@pytest.mark.parametrize(("cuda", "oldest"), [("12.8", "525"), ("13.0", "580"), ("14.0", "one for CUDA 14")])
def test_an_older_driver_will_not_and_the_fix_names_one_that_will(cuda, oldest):
    hardware = HardwareFacts(gpus=(HEALTHY,), driver="470.57.02", cuda=(11, 4))

    [fault] = gpu_faults(hardware, CUDA_13.model_copy(update={"cuda": cuda}))

    assert f"driver 470.57.02 runs CUDA 11.4 and older; torch 2.13.0+cu130 is built for CUDA {cuda}." in fault.cause
    assert f"whose driver is {oldest} or newer" in fault.fix


@pytest.mark.parametrize(
    ("arch", "capability", "runs"),
    [
        ("sm_80", (8, 0), True),
        ("sm_80", (8, 6), True),
        ("sm_80", (8, 9), True),
        ("sm_86", (8, 0), False),
        ("sm_80", (9, 0), False),
        ("sm_90", (8, 9), False),
        ("sm_90", (12, 0), False),
        ("sm_120", (12, 0), True),
        ("sm_120", (12, 1), True),
        ("sm_100", (10, 3), True),
        ("sm_100", (12, 0), False),
        ("compute_80", (12, 0), True),
        ("compute_90", (8, 6), False),
        ("sm_90a", (9, 0), True),
        ("sm_100a", (10, 3), False),
        ("sm_100f", (10, 3), True),
        ("compute_90a", (12, 0), False),
        ("compute_100f", (12, 0), False),
    ],
)
def test_machine_code_runs_within_its_major_version_and_ptx_on_everything_later(arch, capability, runs):
    assert runs_on(arch, capability) is runs


def test_every_gpu_that_a_plan_can_be_asked_for_runs_the_code_of_todays_torch():
    names = ("T4", "L4", "A10G", "RTX3090", "RTX4090", "RTX5090", "L40S", "A100", "H100", "H200", "B200")

    assert [name for name in names if faults(*parse_gpus(name))] == []


def test_a_kind_of_gpu_without_code_is_told_once_however_many_there_are():
    v100 = HEALTHY.model_copy(update={"name": "Tesla V100", "compute_capability": (7, 0)})

    [cause] = faults(v100, v100, HEALTHY)

    assert "no code for Tesla V100 (compute capability 7.0)" in cause


def test_a_torch_without_cuda_is_told_as_one_fault():
    [cause] = faults(HEALTHY, build=TorchBuild(version="2.13.0+cpu", cuda=None, archs=()))

    assert "torch 2.13.0+cpu is built without CUDA" in cause


@pytest.mark.parametrize(
    ("gpus", "shm_gib", "few"),
    [
        (1, 0.0, False),
        (2, 64 / 1024, True),
        (2, 0.25, False),
        (8, 0.25, True),
        (8, 0.999, False),
        (8, None, False),
        (16, 1.0, False),
        (2, 0.0, True),
    ],
)
def test_dockers_64_mb_are_too_few_between_gpus_and_the_recommended_1g_is_enough(gpus, shm_gib, few):
    assert bool(faults(*[HEALTHY] * gpus, shm_gib=shm_gib)) is few


@pytest.mark.parametrize(("used_gib", "occupied"), [(0.0, False), (0.6, False), (1.0, False), (1.1, True)])
def test_a_screen_is_no_occupation_and_a_model_is(used_gib, occupied):
    assert bool(faults(HEALTHY.model_copy(update={"used_gib": used_gib}))) is occupied


def test_what_nvml_does_not_tell_is_no_fault():
    assert faults(HEALTHY.model_copy(update={"ecc_errors": None}), cuda=None, shm_gib=None) == []


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"ecc_errors": 2}, "has had 2 memory errors"),
        ({"row_remap": "pending"}, "row remapping is pending"),
        ({"row_remap": "failed"}, "row remapping failed"),
    ],
)
def test_broken_memory_is_a_fault_of_that_gpu(state, words):
    [cause] = faults(HEALTHY, HEALTHY.model_copy(update={"index": 3} | state))

    assert cause.startswith("GPU 3 (NVIDIA L4) ")
    assert words in cause


@pytest.mark.parametrize(
    ("settings", "count"),
    [({}, 4), ({"num_processes": 2}, 2), ({"strategy": "single"}, 1), ({"strategy": "cpu"}, 0)],
)
def test_only_gpus_that_can_train_are_judged(settings, count):
    spec = JobSpec(model="org/base", dataset_uri="org/rows", **settings)

    assert training_gpus(spec, [HEALTHY] * 4) == (HEALTHY,) * count


# Disks


def a_job(tmp_path: Path, **settings: object) -> JobSpec:
    places = {"model": "org/base", "dataset_uri": "org/rows", "work_dir": tmp_path / "work"}
    return JobSpec(**(places | settings))


def remote(source: Source) -> Source:
    """The same files, as if they were yet to be downloaded."""
    return Source(S3Uri("bucket", "key"), source.store, source.files, None)


def inputs(tmp_path: Path, local: bool = False) -> Inputs:
    """A model of 1,000 bytes and more in its header, and 100 bytes of rows."""
    folder = make_model(tmp_path / "model")
    write_safetensors(
        folder / "model.safetensors", {"model.layers.0.self_attn.o_proj.weight": [4, 8], "norm.weight": [8]}
    )
    with (folder / "model.safetensors").open("ab") as file:
        file.truncate(1000)
    (tmp_path / "rows.jsonl").write_bytes(b" " * 100)
    model, rows = find_model(str(folder)), find_dataset(str(tmp_path / "rows.jsonl"))
    if not local:
        model, rows = type(model)(model.facts, remote(model.source), model.name), remote(rows)
    return Inputs(HardwareFacts(), model, None, (rows,), None)


def needed(spec: JobSpec, found: Inputs) -> int:
    """Bytes beyond the adapter and its checkpoints."""
    [disk] = disks_used(spec, found)
    return disk.needed - 19 * adapter_bytes(spec, found.model.facts)


def size_of(source: Source) -> int:
    return sum(file.size for file in source.files)


def test_the_disk_holds_the_model_and_the_rows_twice(tmp_path):
    found = inputs(tmp_path)

    assert needed(a_job(tmp_path), found) == size_of(found.model.source) + 2 * 100
    assert size_of(found.model.source) >= 1000


def test_what_is_here_already_is_not_downloaded_again(tmp_path):
    assert needed(a_job(tmp_path), inputs(tmp_path, local=True)) == 100

    found = inputs(tmp_path)
    folder = tmp_path / "work/cache/models" / found.model.source.identity[:24]
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b" " * 1000)
    assert needed(a_job(tmp_path), found) == size_of(found.model.source) - 1000 + 2 * 100


def test_rows_prepared_by_an_earlier_attempt_need_no_second_place(tmp_path):
    prepared = tmp_path / "work/cache/prepared/key"
    prepared.mkdir(parents=True)
    (prepared / "train.arrow").write_bytes(b" " * 500)

    assert needed(a_job(tmp_path), inputs(tmp_path, local=True)) == 0


def test_checkpoints_of_an_earlier_attempt_need_no_second_place(tmp_path):
    spec, found = a_job(tmp_path, output_uri=("s3://bucket/out",)), inputs(tmp_path, local=True)
    before, run_dir = needed(spec, found), find_run_dir(spec)
    run_dir.checkpoints.mkdir(parents=True)
    (run_dir.checkpoints / "optimizer.pt").write_bytes(b" " * 500)
    (run_dir.root / "link").hardlink_to(run_dir.checkpoints / "optimizer.pt")

    assert needed(spec, found) == before - 500


def test_an_output_folder_on_the_same_disk_is_counted_with_it_and_one_on_another_apart(tmp_path, monkeypatch):
    found = inputs(tmp_path)
    spec = a_job(tmp_path, output_uri=(f"{tmp_path}/out/deep", "s3://bucket/out", "/dev/shm/graft-test-output"))

    here, there = disks_used(spec, found)

    assert here.settings == (f"JOB_WORK_DIR={tmp_path}/work", f"JOB_OUTPUT_URI={tmp_path}/out/deep")
    assert there.settings == ("JOB_OUTPUT_URI=/dev/shm/graft-test-output",)
    assert there.needed == adapter_bytes(spec, found.model.facts) > 0
    assert not (tmp_path / "work").exists()
    assert not (tmp_path / "out").exists()


def test_a_place_that_names_no_size_is_left_to_the_write_probe(tmp_path):
    spec = a_job(tmp_path, output_uri=("/proc/graft-output",))

    assert [disk.settings for disk in disks_used(spec, inputs(tmp_path))] == [(f"JOB_WORK_DIR={tmp_path}/work",)]


def test_an_adapter_is_as_large_as_its_two_factors_of_every_matrix(tmp_path):
    """The linear layers of Llama-3.1-8B at rank 16: 41,943,040 parameters, as PEFT counts them."""
    shapes = {(4096, 4096): 2, (1024, 4096): 2, (14336, 4096): 2, (4096, 14336): 1}
    layers = tuple(
        TensorGroup(name="model.layers.*.w.weight", shape=s, dtype="BF16", count=32 * n) for s, n in shapes.items()
    )
    norm = TensorGroup(name="norm", shape=(4096,), dtype="BF16", count=65)
    facts = ModelFacts(
        uri="", revision=None, model_type="llama", parameters=1, weights_bytes=1, dtypes={}, tensors=(*layers, norm),
        config={}, max_length=None, identity="",
    )  # fmt: skip

    assert adapter_bytes(a_job(tmp_path), facts) == 41_943_040 * 4


@pytest.mark.parametrize(
    "without",
    [
        TensorGroup(name="model.layers.*.mlp.experts.*.up_proj.weight", shape=(1536, 4096), dtype="BF16", count=12_032),
        TensorGroup(name="model.layers.*.mlp.up_proj.weight", shape=(8_388_608, 1), dtype="U8", count=32),
    ],
    ids=["experts", "packed 4-bit weights"],
)
def test_what_gets_no_adapter_or_hides_its_shape_makes_no_room_for_one(without, tmp_path):
    facts = inputs(tmp_path).model.facts

    more = facts.model_copy(update={"tensors": (*facts.tensors, without)})

    assert adapter_bytes(a_job(tmp_path), more) == adapter_bytes(a_job(tmp_path), facts) > 0


def test_a_full_disk_is_told_with_its_place_and_both_sizes():
    full = Disk(("JOB_WORK_DIR=/w", "JOB_OUTPUT_URI=/o"), needed=18 * 2**30, free=5 * 2**30)

    [fault] = disk_faults(full)

    assert fault.cause == "The disk of JOB_WORK_DIR=/w and JOB_OUTPUT_URI=/o has 5.0 GiB left; 18.0 GiB are needed."
    assert list(disk_faults(Disk(full.settings, needed=5 * 2**30, free=5 * 2**30))) == []


def test_files_that_are_here_are_not_missing(tmp_path):
    source = Source(S3Uri("b", "k"), None, (StoredFile("a", 3, "x"), StoredFile("b", 3, "y")), None)  # type: ignore[arg-type]
    folder = tmp_path / source.identity[:24]
    folder.mkdir()
    (folder / "a").write_bytes(b"123")
    (folder / "b").write_bytes(b"1")

    assert [file.path for file in source.missing(tmp_path)] == ["b"]


# Clocks


@pytest.mark.parametrize(
    ("ahead_s", "words"), [(1201, "20 minutes ahead of that of"), (-86400, "1,440 minutes behind")]
)
def test_a_clock_is_compared_with_that_of_the_store(ahead_s, words):
    measured = seconds_ahead(formatdate(time.time() - ahead_s, usegmt=True))

    assert abs(measured - ahead_s) < 2
    assert words in wrong_clock("s3://bucket", measured).cause


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_a_store_without_a_date_leaves_the_distance_unsaid(date):
    assert wrong_clock("s3://bucket", seconds_ahead(date)).cause == (
        "The clock of this machine is wrong: s3://bucket refuses its signatures."
    )


def certificate_error(code: int) -> Exception:
    inner = ssl.SSLCertVerificationError(1, "certificate verify failed")
    inner.verify_code = code
    outer = ConnectionError("could not connect")
    outer.__cause__ = inner
    return outer


def test_a_certificate_of_the_future_means_a_clock_that_is_behind():
    fault = clock_before_certificate(certificate_error(9), "org/model")

    assert fault is not None
    assert "is behind: the certificate of org/model is not valid yet" in fault.cause


@pytest.mark.parametrize("code", [10, 18, 19, 20], ids=["expired", "self-signed", "in chain", "no issuer"])
def test_other_trouble_with_a_certificate_says_nothing_about_the_clock(code):
    assert clock_before_certificate(certificate_error(code), "org/model") is None
