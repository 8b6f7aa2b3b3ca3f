"""The worker's own parts: the packing probe, the log, the proof that an adapter changed."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, TrainerControl
from transformers.trainer_callback import CallbackHandler

from job.errors import AdapterRejected, Diverged
from job.events import EventLog
from job.probe.packing import probe_packing
from job.train.callbacks import Beat, Progress
from job.train.proof import AdapterWatch, does_nothing


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


@pytest.mark.parametrize(
    ("adapter", "name", "value"),
    [("lora", "q_proj.lora_B.default.weight", 0.0), ("ia3", "k_proj.ia3_l.default", 1.0), ("oft", "oft_R.weight", 0.0)],
)
def test_a_tensor_that_leaves_its_module_as_it_is_has_learned_nothing(adapter, name, value):
    assert does_nothing(adapter, name, torch.full((3,), value))
    assert not does_nothing(adapter, name, torch.tensor([value, value, value + 1e-4]))
    assert not does_nothing(adapter, "q_proj.lora_A.default.weight", torch.full((3,), value))


def test_an_adapter_with_nan_has_diverged():
    model = Adapted()
    watch = AdapterWatch(model)
    model.lora_A.data += 1
    model.lora_B.data[0] = float("nan")

    with pytest.raises(Diverged, match="NaN"):
        watch.prove()


def test_an_unfinished_training_need_not_have_changed_every_tensor():
    model = Adapted()
    watch = AdapterWatch(model)
    model.lora_A.data += 1
    assert watch.proof_if_learned() is None

    model.lora_B.data += 1
    assert watch.proof_if_learned().changed_tensors == 2


class State:
    is_world_process_zero = True
    global_step = 3
    max_steps = 10


def test_logging_steps_reach_the_log(tmp_path):
    progress = Progress(EventLog(tmp_path / "log.jsonl", clock=lambda: 1.0), before={}, tokens=0)

    progress.on_log(None, State(), None, {"loss": 2.5, "num_tokens": 70.0})

    assert json.loads((tmp_path / "log.jsonl").read_text()) == {
        "time": 1.0, "event": "train", "step": 3, "total_steps": 10, "loss": 2.5, "num_tokens": 70.0,
    }  # fmt: skip
    assert progress.tokens == 70


@pytest.mark.parametrize(
    "event", ["on_train_begin", "on_substep_end", "on_step_end", "on_prediction_step", "on_evaluate", "on_save"]
)
def test_whatever_a_rank_gets_done_is_a_sign_of_life(tmp_path, event):
    path = tmp_path / "rank0"
    path.touch()
    os.utime(path, (0, 0))
    beat = Beat(path)

    CallbackHandler([beat], None, None, None, None).call_event(event, None, None, TrainerControl())

    assert path.stat().st_mtime > 0
