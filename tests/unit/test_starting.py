"""The adapter that a run starts from: what it must be, and what is refused before anything is fetched."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from job.environment import load_spec
from job.errors import BadSpec, NotFound, OutputTaken
from job.inputs import ModelSource, Source
from job.pins import refuse_changes
from job.records import Decided, ModelFacts, TensorGroup
from job.spec import JobSpec
from job.starting import find_adapter
from job.storage.local import LocalStore
from job.uri import FileUri

GOOD = {"JOB_MODEL": "org/base", "JOB_DATASET_URI": "org/rows", "JOB_OUTPUT_URI": "/out"}
CONFIG = {
    "base_model_name_or_path": "org/base",
    "peft_type": "LORA",
    "r": 16,
    "lora_alpha": 32,
    "task_type": "CAUSAL_LM",
}
PROJECTION = "base_model.model.model.layers.0.self_attn.q_proj"


def spec(where: Path, **settings: str) -> JobSpec:
    return load_spec(GOOD | {"JOB_ADAPTER_URI": str(where)} | settings)


def model(tmp_path: Path) -> ModelSource:
    group = TensorGroup(name="model.layers.*.self_attn.q_proj.weight", shape=(8, 4), dtype="F32", count=2)
    facts = ModelFacts(
        uri="org/base", revision=None, model_type="llama", parameters=64, weights_bytes=256, dtypes={},
        tensors=(group,), config={}, max_length=64, identity="x",
    )  # fmt: skip
    return ModelSource(facts, Source(FileUri(tmp_path), LocalStore(FileUri(tmp_path)), (), None), "org/base")


def write(folder: Path, width: int = 4, module: str = PROJECTION, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    tensors = {f"{module}.lora_A.weight": np.zeros((2, width)), f"{module}.lora_B.weight": np.zeros((8, 2))}
    save_file(
        {name: tensor.astype(np.float32) for name, tensor in tensors.items()}, folder / "adapter_model.safetensors"
    )
    return folder


@pytest.mark.parametrize("place", ["out", "out/adapter"])
def test_the_output_of_a_run_or_the_adapter_itself_can_be_named(tmp_path, place):
    write(tmp_path / "out" / "adapter")

    found = find_adapter(spec(tmp_path / place), model(tmp_path))

    assert found is not None
    assert found.location == str(tmp_path / "out" / "adapter")
    started = found.localize(tmp_path / "cache", "continue")
    assert (started.path, started.location) == (tmp_path / "out" / "adapter", found.location)


def test_nothing_is_looked_for_where_nothing_is_asked_for(tmp_path):
    assert find_adapter(load_spec(GOOD), model(tmp_path)) is None


@pytest.mark.parametrize(
    ("changes", "settings", "reason"),
    [
        ({"base_model_name_or_path": "org/other"}, {}, "an adapter of org/other, and JOB_MODEL=org/base"),
        ({"task_type": "SEQ_CLS"}, {}, "a reward model, which answers nothing"),
        ({"trainable_token_indices": {"embed_tokens": [9]}}, {}, "tokens that JOB_MODEL does not have"),
        ({"peft_type": "IA3"}, {}, "of kind IA3, and JOB_ADAPTER=lora"),
        ({"r": 8}, {}, "r=8, and JOB_LORA_R=16"),
        ({"peft_type": "PREFIX_TUNING"}, {"JOB_METHOD": "dpo"}, "cannot be merged into a base"),
        ({"width": 6}, {}, "self_attn.q_proj is of another shape"),
        ({"module": PROJECTION.replace("q_proj", "qkv")}, {}, "which has no model.layers.0.self_attn.qkv"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_with_the_reason(tmp_path, changes, settings, reason):
    write(tmp_path / "first", **changes)

    with pytest.raises(BadSpec) as refused:
        find_adapter(spec(tmp_path / "first", **settings), model(tmp_path))
    assert reason in refused.value.cause


def test_a_rank_of_its_own_does_not_matter_to_what_is_merged(tmp_path):
    assert find_adapter(spec(write(tmp_path / "first", r=8), JOB_METHOD="dpo"), model(tmp_path))


def test_a_place_without_an_adapter_is_not_found(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "file").touch()

    with pytest.raises(NotFound, match=r"holds no adapter_config\.json"):
        find_adapter(spec(tmp_path / "empty"), model(tmp_path))


def test_an_adapter_on_top_of_another_is_refused(tmp_path):
    (write(tmp_path / "second") / "starts_from.json").write_text("{}")

    with pytest.raises(BadSpec, match="another adapter merged into it"):
        find_adapter(spec(tmp_path / "second"), model(tmp_path))


def test_an_adapter_must_be_what_its_manifest_says(tmp_path):
    folder = write(tmp_path / "out" / "adapter")
    told = {
        f"adapter/{file.name}": {"size": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for file in folder.iterdir()
    }
    (tmp_path / "out" / "manifest.json").write_text(json.dumps({"files": told}))
    found = find_adapter(spec(tmp_path / "out"), model(tmp_path))
    assert found is not None
    assert found.localize(tmp_path / "cache", "continue")

    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(BadSpec, match=r"adapter_model\.safetensors is not as its manifest\.json says"):
        found.localize(tmp_path / "cache", "continue")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"JOB_ADAPTER_START": "merge"}, "has nothing to start from; set JOB_ADAPTER_URI too"),
        ({"JOB_ADAPTER_URI": "/a", "JOB_METHOD": "dpo", "JOB_ADAPTER_START": "continue"}, "use merge"),
        ({"JOB_ADAPTER_URI": "/a", "JOB_METHOD": "dpo", "JOB_ADAPTER": "qlora"}, "contradicts JOB_ADAPTER=qlora"),
        ({"JOB_ADAPTER_URI": "/a", "JOB_METHOD": "dpo", "JOB_QUANTIZATION": "int8"}, "would be rounded once more"),
        ({"JOB_ADAPTER_URI": "/a", "JOB_STRATEGY": "zero3"}, "JOB_STRATEGY=zero3 shares the base"),
    ],
)
def test_what_contradicts_a_start_is_refused(settings, reason):
    with pytest.raises(BadSpec) as refused:
        load_spec(GOOD | settings)
    assert reason in str(refused.value)


def test_the_way_of_starting_is_the_methods():
    ways = {
        method: load_spec(GOOD | {"JOB_ADAPTER_URI": "/a", "JOB_METHOD": method}) for method in ("sft", "dpo", "kto")
    }

    assert {method: found.adapter_start for method, found in ways.items()} == {
        "sft": "continue", "dpo": "merge", "kto": "merge",
    }  # fmt: skip
    assert load_spec(GOOD).adapter_start is None


def test_a_run_does_not_go_on_from_another_adapter_than_it_began_with():
    before, now = (Decided(quantization="none", packing=False, adapter=identity) for identity in ("a", "b"))

    with pytest.raises(OutputTaken, match="JOB_ADAPTER_URI=/a has changed"):
        refuse_changes(load_spec(GOOD | {"JOB_ADAPTER_URI": "/a"}), before, now, step=7)
