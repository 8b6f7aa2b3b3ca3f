"""All weights, under every strategy: the same losses, whole files, resumed bit by bit, and judged anew."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from job.errors import AdapterRejected
from job.train.save import _PART, save_whole_model
from tests.thorough import some
from tests.worker.preferences import make_preferences
from tests.worker.strategies import STRATEGIES, TOKENS, Inputs, Run, make_inputs, make_run
from tests.worker.test_gate import Tensors, judge
from tests.worker.test_methods import train_here

pytestmark = pytest.mark.slow
FILE = "model.safetensors"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("inputs"), rows=40)


def of_all_weights(inputs: Inputs, root: Path, strategy: str = "single", **plan: str) -> Run:
    run = make_run(inputs, root, strategy, **plan)
    settings = {"adapter": "full", "learning_rate": 1e-3, "max_steps": 4, "save_steps": 2}
    return replace(run, settings=run.settings | settings)


@pytest.fixture(scope="module")
def run(inputs, tmp_path_factory) -> Run:
    return train_here(of_all_weights(inputs, tmp_path_factory.mktemp("run")))


def test_every_tensor_is_trained_and_the_files_are_a_model_like_any_other(run):
    base, tuned = (AutoModelForCausalLM.from_pretrained(folder) for folder in (run.inputs.model, run.adapter))

    assert run.losses[-1] < run.losses[0] - 0.03
    assert run.result.adapter.trainable_parameters == sum(p.numel() for p in base.parameters())
    assert run.result.adapter.changed_tensors == run.result.adapter.tensors
    assert judge(run, run.adapter).apart < 1e-6
    with torch.no_grad():
        assert (tuned(TOKENS).logits - base(TOKENS).logits).abs().max() > 0.1
    config = json.loads((run.adapter / "config.json").read_text())
    assert (config["use_cache"], "_name_or_path" in config) == (True, False)


@pytest.mark.parametrize("strategy", some([s for s in STRATEGIES if s != "single"], always=("ddp", "zero3")))
def test_every_strategy_trains_the_same_model_and_goes_on_with_it(run, tmp_path, strategy):
    shared = of_all_weights(run.inputs, tmp_path / "run", strategy).execute()

    assert shared.losses == pytest.approx(run.losses, abs=1e-4)
    assert judge(shared, shared.adapter).learned == judge(run, run.adapter).learned

    checkpoint = shared.files.checkpoints / "checkpoint-2"
    again = replace(shared, root=tmp_path / "again", resume_from=checkpoint).execute()
    assert (again.losses, again.result.resumed_at_step) == (shared.losses, 2)
    tensors, expected = (load_file(each.adapter / FILE) for each in (again, shared))
    assert all(tensors[name].equal(expected[name]) for name in expected)


def test_a_head_that_is_the_embedding_is_trained_and_published_once(tmp_path):
    (tmp_path / "inputs").mkdir()
    inputs = make_inputs(tmp_path / "inputs", rows=40)
    model = AutoModelForCausalLM.from_pretrained(inputs.model)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(inputs.model)

    run = of_all_weights(inputs, tmp_path / "run", "fsdp").execute()

    figures = judge(run, run.adapter)
    assert figures.learned == figures.tensors == 15, "one matrix fewer"
    assert "lm_head.weight" not in load_file(run.adapter / FILE)


def test_in_16_bits_the_weights_are_trained_in_32_and_published_in_16(inputs, tmp_path):
    run = train_here(of_all_weights(inputs, tmp_path / "run", precision="bf16"))
    kept = load_file(run.files.checkpoints / "checkpoint-4" / FILE)

    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}
    assert {tensor.dtype for tensor in load_file(run.adapter / FILE).values()} == {torch.bfloat16}
    figures = judge(run, run.adapter)
    assert figures.apart <= figures.tolerance < figures.moved


def test_a_reward_model_can_be_whole(tmp_path):
    run = of_all_weights(make_preferences(tmp_path / "rows", "reward"), tmp_path / "run")
    run = train_here(replace(run, settings=run.settings | {"method": "reward"}))

    figures = judge(run, run.adapter)

    assert figures.learned == figures.tensors
    assert "score.weight" in load_file(run.adapter / FILE)


def with_tensors(change: Callable[[Tensors], object]) -> Callable[[Path, Path], None]:
    def spoil(folder: Path, base: Path) -> None:
        tensors = load_file(folder / FILE)
        change(tensors)
        save_file(tensors, folder / FILE, {"format": "pt"})

    return spoil


def lose(tensors: Tensors) -> None:
    for name in list(tensors):
        if ".layers.1." in name:
            del tensors[name]


def of_another_kind(folder: Path, base: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mistral"}))


FAULTS = {
    "untrained": (lambda folder, base: shutil.copy(base / FILE, folder / FILE), "model tensors are what they began as"),
    "a layer lost": (with_tensors(lose), "model.safetensors lacks 9 of 21 tensors"),
    "NaN": (with_tensors(lambda t: t["lm_head.weight"].view(-1)[:2].fill_(torch.nan)), r"2 of [\d,]+ values in lm_head"),
    "a layer exchanged": (
        with_tensors(lambda t: t["model.layers.0.mlp.up_proj.weight"].neg_()),
        "The loaded weights' logits are",
    ),
    "another kind": (of_another_kind, "config.json is of a mistral, and a llama was trained"),
    "no configuration": (lambda folder, base: (folder / "config.json").unlink(), "config.json cannot be read back"),
    "no weights": (lambda folder, base: (folder / FILE).unlink(), "cannot be read back"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_the_model_that_was_trained_is_rejected(run, tmp_path, fault):
    spoil, said = FAULTS[fault]
    folder = shutil.copytree(run.adapter, tmp_path / "model")
    spoil(folder, run.inputs.model)

    with pytest.raises(AdapterRejected, match=said):
        judge(run, folder)


def test_a_large_model_is_published_in_parts_that_are_read_together(run, tmp_path, monkeypatch):
    assert _PART == "5GB"
    monkeypatch.setattr("job.train.save._PART", "300KB")
    model = AutoModelForCausalLM.from_pretrained(run.adapter)
    folder = shutil.copytree(run.adapter, tmp_path / "model")
    (folder / FILE).unlink()

    save_whole_model(model, dict(model.named_parameters()), _Tokenizer(), folder, torch.float32)

    assert len(list(folder.glob("model-*.safetensors"))) > 2
    assert judge(run, folder).apart < 1e-6
    next(folder.glob("model-*.safetensors")).unlink()
    with pytest.raises(AdapterRejected, match=r"lacks \d+ of 21 tensors"):
        judge(run, folder)


class _Tokenizer:
    def save_pretrained(self, folder: Path) -> None:
        pass
