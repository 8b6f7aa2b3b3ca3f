"""Facts: GPUs, safetensors headers, row files."""

import json
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest

from job.errors import BadData, BadSpec, NotFound, UnsuitableHost
from job.facts import hardware, model
from job.facts.dataset import choose_files
from job.facts.gpus import parse_gpus
from job.facts.model import inspect_model
from job.inputs import find_dataset, find_model, read_spec_file
from job.storage import Snapshot, StoredFile, open_store
from job.uri import parse_uri
from tests.fakes.nvml import GIB, FakeGpu, FakeNvml


def test_no_driver_is_a_fact_and_not_an_error(monkeypatch):
    def no_driver() -> None:
        raise hardware.pynvml.NVMLError_LibraryNotFound

    monkeypatch.setattr(hardware.pynvml, "nvmlInit", no_driver)

    facts = hardware.inspect_hardware({})

    assert facts.gpus == ()
    assert facts.cpus >= 1
    assert facts.memory_gib > 0


def inspect_gpus(monkeypatch: pytest.MonkeyPatch, *gpus: FakeGpu, visible: str | None = None, **driver: object):
    monkeypatch.setattr(hardware, "pynvml", FakeNvml(list(gpus), **driver))
    return hardware.inspect_hardware({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})


def test_gpus_are_described_as_nvml_tells(monkeypatch):
    busy = FakeGpu(used=30 * GIB, pids=(7, 8), ecc_errors=3, remapped=(0, 1, 1, 0))

    facts = inspect_gpus(monkeypatch, FakeGpu(), busy, visible="1")

    [gpu] = facts.gpus
    assert (gpu.index, gpu.memory_gib, gpu.used_gib, gpu.processes) == (1, 80.0, 30.0, (7, 8))
    assert (gpu.ecc_errors, gpu.row_remap) == (3, "pending")
    assert (facts.driver, facts.cuda) == ("580.95.05", (13, 0))


def test_a_gpu_of_which_nvml_tells_little_is_described_without_it(monkeypatch):
    little = FakeGpu(pids=None, ecc_errors=None, remapped=None)

    facts = inspect_gpus(monkeypatch, little, cuda=None)

    assert (facts.cuda, facts.gpus[0].processes) == (None, ())
    assert (facts.gpus[0].ecc_errors, facts.gpus[0].row_remap) == (None, None)


def test_what_the_driver_reserves_is_not_held_by_anybody(monkeypatch):
    assert inspect_gpus(monkeypatch, FakeGpu(used=0, reserved=GIB)).gpus[0].used_gib == 0
    assert inspect_gpus(monkeypatch, FakeGpu(used=GIB, reserved=None)).gpus[0].used_gib == 1.0


def test_a_row_that_could_not_be_replaced_outweighs_one_that_waits(monkeypatch):
    assert inspect_gpus(monkeypatch, FakeGpu(remapped=(0, 2, 1, 1))).gpus[0].row_remap == "failed"


def test_a_gpu_that_has_fallen_off_the_bus_is_the_hosts_fault(monkeypatch):
    with pytest.raises(UnsuitableHost, match="GPU is lost"):
        inspect_gpus(monkeypatch, FakeGpu(), FakeGpu(lost=True))


@pytest.mark.parametrize(("total", "free", "gib"), [(2**30, 2**29, 0.5), (0, 0, None)])
def test_shared_memory_is_what_is_left_of_it(monkeypatch, total, free, gib):
    monkeypatch.setattr(hardware.shutil, "disk_usage", lambda _: SimpleNamespace(total=total, free=free))

    assert hardware.inspect_hardware({}).shm_gib == gib
    assert hardware.inspect_hardware({"NCCL_SHM_DISABLE": "1"}).shm_gib is None


def test_no_shared_memory_is_none_left(monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "SHARED_MEMORY", tmp_path / "nowhere")

    assert hardware.inspect_hardware({}).shm_gib == 0.0


@pytest.mark.parametrize(
    ("visible", "indices"),
    [(None, [0, 1, 2]), ("", []), ("-1", []), ("2,0", [2, 0]), ("GPU-bb", [1]), ("0,9,1", [0]), (" 1 ", [1])],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(visible, indices):
    assert hardware.visible_indices(visible, ["GPU-aa", "GPU-bb", "GPU-cc"]) == indices


def write_safetensors(path: Path, shapes: dict[str, list[int]]) -> None:
    header = {n: {"dtype": "BF16", "shape": s, "data_offsets": [0, 0]} for n, s in shapes.items()}
    data = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    path.write_bytes(struct.pack("<Q", len(data)) + data)


def make_model(folder: Path, **config: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 2} | config))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def inspect(folder: Path):
    store = open_store(parse_uri(str(folder), "model"))
    return inspect_model(store, store.snapshot(), folder.parent / "headers")


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [("max 100000\n", 8), ("200000 100000\n", 2), ("50000 100000\n", 1), ("9900000 100000\n", 8), (None, 8)],
)
def test_a_container_is_not_taken_for_its_host(quota, cpus, tmp_path, monkeypatch):
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _: range(8))
    if quota:
        (tmp_path / "cpu.max").write_text(quota)

    assert hardware.usable_cpus(tmp_path / "cpu.max") == cpus


@pytest.mark.parametrize(("limit", "gib"), [("max\n", 8), (f"{2 * 2**30}\n", 2), (f"{2**60}\n", 8), (None, 8)])
def test_a_containers_memory_is_not_taken_for_its_hosts(limit, gib, tmp_path, monkeypatch):
    monkeypatch.setattr(hardware.psutil, "virtual_memory", lambda: SimpleNamespace(total=8 * 2**30))
    if limit:
        (tmp_path / "memory.max").write_text(limit)

    assert hardware.usable_memory(tmp_path / "memory.max") == gib * 2**30


def test_parameters_are_counted_from_headers_alone(tmp_path):
    folder = make_model(tmp_path / "m", max_position_embeddings=4096)
    write_safetensors(folder / "model.safetensors", {"a": [4, 8], "b": [3]})

    facts = inspect(folder)

    assert (facts.parameters, facts.dtypes, facts.max_length) == (35, {"BF16": 35}, 4096)
    assert [(group.name, group.shape, group.count) for group in facts.tensors] == [("a", (4, 8), 1), ("b", (3,), 1)]


def test_shards_are_those_that_the_index_names(tmp_path):
    folder = make_model(tmp_path / "m")
    write_safetensors(folder / "one.safetensors", {"a": [4]})
    write_safetensors(folder / "two.safetensors", {"b": [5]})
    write_safetensors(folder / "consolidated.safetensors", {"c": [100]})
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    assert inspect(folder).parameters == 9


def test_a_missing_shard_is_named(tmp_path):
    folder = make_model(tmp_path / "m")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')

    with pytest.raises(NotFound, match=r"gone\.safetensors"):
        inspect(folder)


def test_headers_are_read_once_and_again_when_the_weights_change(tmp_path, monkeypatch):
    folder = make_model(tmp_path / "m")
    write_safetensors(folder / "model.safetensors", {"layers.0.a": [4, 8], "layers.1.a": [4, 8], "b": [3]})
    first = inspect(folder)
    assert [(group.name, group.count) for group in first.tensors] == [("b", 1), ("layers.*.a", 2)]

    with monkeypatch.context() as patch:
        patch.setattr(model, "read_header", lambda *_: pytest.fail("it was read before"))
        assert inspect(folder) == first
    write_safetensors(folder / "model.safetensors", {"c": [5, 5]})
    assert inspect(folder).parameters == 25

    (next((tmp_path / "headers").iterdir())).write_text("[{]")  # cut off in the middle
    assert inspect(folder).parameters == 25


def test_weights_that_are_stored_quantized_are_refused(tmp_path):
    folder = make_model(tmp_path / "m", quantization_config={"quant_method": "gptq"})

    with pytest.raises(BadSpec, match=r"stored quantized \(gptq\)"):
        inspect(folder)


def test_nested_configurations_are_read(tmp_path):
    folder = make_model(tmp_path / "m", text_config={"num_hidden_layers": 7, "max_position_embeddings": 99})
    write_safetensors(folder / "model.safetensors", {"a": [1]})

    assert (inspect(folder).config["num_hidden_layers"], inspect(folder).max_length) == (7, 99)


@pytest.mark.parametrize("content", [b"", b"\x00" * 4, b"\xff" * 64, struct.pack("<Q", 10**12) + b"{}"])
def test_a_file_that_is_no_safetensors_is_refused(tmp_path, content):
    folder = make_model(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(content)

    with pytest.raises(BadSpec, match="not a safetensors file"):
        inspect(folder)


def test_pickled_weights_are_refused(tmp_path):
    folder = make_model(tmp_path / "m")
    (folder / "pytorch_model.bin").write_bytes(b"x")

    with pytest.raises(BadSpec, match="pickled weights are not loaded"):
        inspect(folder)


def test_a_model_that_brings_its_own_code_is_refused(tmp_path):
    folder = make_model(tmp_path / "m", auto_map={"AutoModel": "modeling.Evil"})
    write_safetensors(folder / "model.safetensors", {"a": [1]})

    with pytest.raises(BadSpec, match="never run"):
        inspect(folder)


def test_a_folder_without_a_model_is_not_found(tmp_path):
    (tmp_path / "notes.txt").write_text("x")

    with pytest.raises(NotFound, match=r"config\.json"):
        find_model(str(tmp_path))


def choose(uri: str, *paths: str) -> list[str]:
    files = tuple(StoredFile(path, 1, "") for path in paths)
    return [file.path for file in choose_files(parse_uri(uri, "dataset"), Snapshot(files))]


def test_the_train_split_is_taken_by_default():
    paths = ("README.md", "data/test-00000.parquet", "data/train-00000.parquet", "dataset_info.json")

    assert choose("org/rows", *paths) == ["data/train-00000.parquet"]
    assert choose("hf://datasets/org/rows?split=test", *paths) == ["data/test-00000.parquet"]


def test_files_without_a_split_in_their_name_are_all_taken():
    assert choose("org/rows", "b.jsonl", "a.jsonl") == ["a.jsonl", "b.jsonl"]


def test_a_config_is_a_folder():
    assert choose("hf://datasets/org/rows?config=main", "main/train.csv", "socratic/train.csv") == ["main/train.csv"]


def test_an_unknown_split_is_not_found():
    with pytest.raises(NotFound, match="validation"):
        choose("hf://datasets/org/rows?split=validation", "train.jsonl")


def test_a_place_without_rows_is_bad_data():
    with pytest.raises(BadData, match=r"found readme\.txt"):
        choose("./folder", "readme.txt")


def test_an_empty_file_can_be_found(tmp_path):
    (tmp_path / "rows.jsonl").touch()

    assert [file.size for file in find_dataset(str(tmp_path / "rows.jsonl")).files] == [0]


@pytest.mark.parametrize(
    ("text", "count", "name"),
    [
        ("8xH100-80GB", 8, "NVIDIA H100 80GB HBM3"),
        ("H100:8", 8, "NVIDIA H100 80GB HBM3"),
        ("l4", 1, "NVIDIA L4"),
        ("2 x 4090", 2, "NVIDIA GeForce RTX 4090"),
    ],
)
def test_gpus_are_read_as_platforms_write_them(text, count, name):
    gpus = parse_gpus(text)

    assert (len(gpus), gpus[0].name) == (count, name)


@pytest.mark.parametrize("text", ["", "8x", "0xL4", "H100:0x", "2xH100:3", "GTX9", "-1xL4"])
def test_gpus_that_cannot_be_read_are_refused_with_those_that_can(text):
    with pytest.raises(ValueError, match="known are T4"):
        parse_gpus(text)


@pytest.mark.parametrize("uri", ["hf://org/conf/spec.yaml", "s3://bucket/spec.yaml", "<folder>/spec.yaml"])
def test_a_spec_file_is_read_wherever_it_stands(uri, hub_server, s3_server, tmp_path):
    hub_server.add("org/conf", {"spec.yaml": b"lora_r: 8", "README.md": b""})
    s3_server.put("bucket", "spec.yaml", b"lora_r: 8")
    (tmp_path / "spec.yaml").write_bytes(b"lora_r: 8")

    assert read_spec_file(uri.replace("<folder>", str(tmp_path))) == b"lora_r: 8"


def test_a_spec_uri_that_names_a_folder_is_refused(tmp_path):
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).touch()

    with pytest.raises(ValueError, match="name one file"):
        read_spec_file(str(tmp_path))
