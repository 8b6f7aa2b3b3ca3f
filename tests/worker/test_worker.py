"""The worker's own parts: the packing probe, the stop file, the proof that an adapter changed."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING

from job.errors import AdapterRejected
from job.events import EventLog
from job.probe.packing import probe_packing
from job.train.callbacks import FiniteLoss, Progress, StopFile
from job.train.proof import AdapterWatch


def probe(tmp_path: Path, model_type: str, **settings: object):
    CONFIG_MAPPING[model_type](**settings).save_pretrained(tmp_path)
    return probe_packing(tmp_path)


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma3_text", "mistral", "phi3"])
def test_architectures_that_keep_packed_rows_apart_pass_the_probe(tmp_path, model_type):
    assert probe(tmp_path, model_type).isolated


@pytest.mark.parametrize("model_type", ["opt", "gpt_oss"])
def test_architectures_that_mix_packed_rows_fail_the_probe(tmp_path, model_type):
    result = probe(tmp_path, model_type)

    assert not result.isolated
    assert "rows would mix" in result.reason


def test_an_architecture_that_cannot_be_probed_counts_as_mixing(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no_such_model"}))

    result = probe_packing(tmp_path)

    assert not result.isolated
    assert "could not run" in result.reason


class Adapted(nn.Module):
    def __init__(self, trainable: bool = True) -> None:
        super().__init__()
        self.base = nn.Parameter(torch.ones(3), requires_grad=False)
        self.lora_A = nn.Parameter(torch.ones(3), requires_grad=trainable)
        self.lora_B = nn.Parameter(torch.zeros(3), requires_grad=trainable)


def test_an_adapter_that_changed_is_proven():
    model = Adapted()
    watch = AdapterWatch(model)
    model.lora_A.data += 1
    model.lora_B.data += 1

    proof = watch.prove()

    assert (proof.trainable_parameters, proof.tensors, proof.changed_tensors) == (6, 2, 2)


def test_a_frozen_adapter_is_rejected_before_training():
    with pytest.raises(AdapterRejected, match="No parameter is trainable"):
        AdapterWatch(Adapted(trainable=False))


def test_an_adapter_with_one_tensor_as_it_was_is_rejected():
    model = Adapted()
    watch = AdapterWatch(model)
    model.lora_A.data += 1

    with pytest.raises(AdapterRejected, match="1 of 2 adapter tensors as they were, first lora_B"):
        watch.prove()


def test_an_adapter_with_nan_is_rejected():
    model = Adapted()
    watch = AdapterWatch(model)
    model.lora_A.data += 1
    model.lora_B.data[0] = float("nan")

    with pytest.raises(AdapterRejected, match="NaN"):
        watch.prove()


class Arguments:
    world_size = 1
    device = torch.device("cpu")


class State:
    is_world_process_zero = True
    global_step = 3
    max_steps = 10


class Control:
    should_training_stop = False
    should_evaluate = True


def test_the_stop_file_ends_training_after_the_step(tmp_path):
    callback, control = StopFile(tmp_path / "stop"), Control()

    callback.on_step_end(Arguments(), State(), control)
    assert not control.should_training_stop

    (tmp_path / "stop").touch()
    callback.on_step_end(Arguments(), State(), control)
    assert control.should_training_stop
    assert callback.stopped


def test_a_stop_at_the_last_step_is_a_finished_training(tmp_path):
    (tmp_path / "stop").touch()
    callback, state = StopFile(tmp_path / "stop"), State()
    state.global_step = state.max_steps

    callback.on_step_end(Arguments(), state, Control())

    assert not callback.stopped


@pytest.mark.parametrize("logs", [{"loss": float("nan")}, {"loss": 1.0, "grad_norm": float("inf")}])
def test_a_loss_that_is_no_number_ends_training(logs):
    with pytest.raises(FloatingPointError, match="at step 3 of 10"):
        FiniteLoss().on_log(Arguments(), State(), Control(), logs)


def test_logging_steps_reach_the_log(tmp_path):
    progress = Progress(EventLog(tmp_path / "log.jsonl", clock=lambda: 1.0))

    progress.on_log(Arguments(), State(), Control(), {"loss": 2.5, "num_tokens": 70.0})

    assert json.loads((tmp_path / "log.jsonl").read_text()) == {
        "time": 1.0, "event": "train", "step": 3, "total_steps": 10, "loss": 2.5, "num_tokens": 70.0,
    }  # fmt: skip
    assert progress.tokens == 70
