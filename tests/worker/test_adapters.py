"""Every adapter in this process: it learns, is proven, is read by plain PEFT on the untouched base, and goes on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from job.train.story import train
from tests.worker.strategies import Inputs, Run, make_inputs, make_run
from tests.worker.works import ADAPTERS, Combination, attempts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("adapters"), rows=40)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_saved_adapter_gives_the_trained_logits_on_the_base_as_it_is_published(inputs, tmp_path, adapter):
    assert list(attempts([Combination("sft", adapter, "none", "single")], inputs, tmp_path)) == [""]


def trained(run: Run) -> Run:
    run.write()
    beat = run.files.beat(0)
    beat.parent.mkdir()
    beat.touch()
    train(run.files, rank=0)
    return run


def adapter_of(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.adapter / "adapter_model.safetensors")


# The hardest to bring back: state outside the layers, shared buffers, and a base that was changed.
@pytest.mark.parametrize("adapter", ["prefix", "vera", "lora, PiSSA", "lora, lm_head whole"])
def test_a_resumed_run_goes_on_as_if_nothing_had_happened(inputs, tmp_path, adapter):
    run = make_run(inputs, tmp_path / "run", "single", save_steps=2)
    run.settings.update({"max_steps": 4, "learning_rate": 2e-2} | ADAPTERS[adapter])
    trained(run)

    again = trained(replace(run, root=tmp_path / "again", resume_from=run.files.checkpoints / "checkpoint-2"))

    assert again.result.resumed_at_step == 2
    assert again.losses == run.losses
    expected = adapter_of(run)
    for name, tensor in adapter_of(again).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)


def test_what_took_from_the_base_is_published_as_lora_of_twice_the_rank(inputs, tmp_path):
    run = make_run(inputs, tmp_path / "run", "single")
    run.settings.update({"max_steps": 2, "init_lora_weights": "pissa", "use_rslora": True, "lora_r": 4})
    trained(run)

    config = json.loads((run.adapter / "adapter_config.json").read_text())

    assert (config["r"], config["init_lora_weights"]) == (8, True)
    assert config["lora_alpha"] / 8**0.5 == pytest.approx(32 / 4**0.5)
    assert {min(tensor.shape) for tensor in adapter_of(run).values()} == {8}
    checkpoint = run.files.checkpoints / f"checkpoint-{run.result.steps}"
    assert {min(tensor.shape) for tensor in load_file(checkpoint / "adapter_model.safetensors").values()} == {4}


def test_no_file_of_a_prompt_that_began_as_a_text_names_a_place_on_this_machine(inputs, tmp_path):
    run = make_run(inputs, tmp_path / "run", "single")
    init = {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "Add the numbers."}
    run.settings.update({"max_steps": 2, "adapter": "prompt", "peft_args": init})
    trained(run)

    config = (run.adapter / "adapter_config.json").read_text()

    assert json.loads(config)["tokenizer_name_or_path"] == "org/m"
    assert str(Path(inputs.model).parent) not in config
