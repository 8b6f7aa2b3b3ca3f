"""A run that starts from the adapter of an earlier one: trained on, or merged into the base under a new one."""

import json
import math
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from job.records import StartingAdapter
from tests.worker.preferences import make_preferences
from tests.worker.strategies import TOKENS, Inputs, Run, make_inputs
from tests.worker.test_methods import run_of, train_here

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Inputs]:
    folder = tmp_path_factory.mktemp("inputs")
    sft = make_inputs(folder)
    return {"sft": sft, "dpo": make_preferences(folder / "dpo", "dpo", sft.model)}


@pytest.fixture(scope="module")
def first(inputs, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_here(run_of(inputs, tmp_path_factory.mktemp("first"), "sft", max_steps=4, learning_rate=1e-2))


def starting(run: Run, first: Run, how: str) -> Run:
    return replace(run, start=StartingAdapter(path=first.adapter, how=how, location="/first", identity="x"))


def test_an_adapter_is_trained_on_from_where_it_was(inputs, first, tmp_path):
    run = starting(run_of(inputs, tmp_path, "sft", max_steps=1, learning_rate=1e-5), first, "continue")

    again = train_here(run)

    assert again.losses[0] < first.losses[0] - 0.01
    ours, theirs = (load_file(one.adapter / "adapter_model.safetensors") for one in (again, first))
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in ours)


def test_a_new_adapter_stands_on_the_base_with_the_first_one_in_it(inputs, first, tmp_path):
    run = train_here(starting(run_of(inputs, tmp_path / "on", "dpo", max_steps=2), first, "merge"))
    bare = train_here(run_of(inputs, tmp_path / "bare", "dpo", max_steps=1))

    assert run.losses[0] == pytest.approx(math.log(2), abs=1e-6)  # the reference is what SFT has made
    on, off = (one.result.history[0].values["logps/chosen"] for one in (run, bare))
    assert on > off + 1
    assert json.loads((run.adapter / "starts_from.json").read_text()) == {"merged": "/first"}
    assert run.result.merged_adapter == "/first"

    shared = starting(run_of(inputs, tmp_path / "fsdp", "dpo", "fsdp", max_steps=2), first, "merge").execute()
    assert shared.losses == pytest.approx(run.losses, abs=1e-6)

    base = AutoModelForCausalLM.from_pretrained(inputs["dpo"].model, dtype="float32")
    model = PeftModel.from_pretrained(PeftModel.from_pretrained(base, first.adapter).merge_and_unload(), run.adapter)
    with torch.no_grad(), model.disable_adapter():
        reference = model(input_ids=TOKENS).logits
    plain = AutoModelForCausalLM.from_pretrained(inputs["dpo"].model, dtype="float32")
    assert not torch.allclose(reference, plain(input_ids=TOKENS).logits, atol=1e-3)
