"""The adapter as one set of whole tensors, wherever its parts are, and the folder it is published as."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedTokenizerBase

from job.errors import Diverged
from job.records import TrainTask
from job.rundir import write_json


def whole_adapter(model: nn.Module) -> dict[str, torch.Tensor]:
    """The trainable tensors of *model* by name, whole and on the CPU. Every rank must call it, as FSDP and ZeRO-3 leave
    each only a part of them."""
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if any(hasattr(parameter, "ds_id") for parameter in trainable.values()):
        return _from_zero3(trainable)
    return {name: _whole(parameter).detach().cpu().clone() for name, parameter in trainable.items()}


def check_finite(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises:
    Diverged: a value of *tensors* is NaN or infinite.
    """
    if broken := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise Diverged(f"The adapter holds NaN or infinity, first in {broken[0]}.", "Lower JOB_LEARNING_RATE.")


def _whole(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def _from_zero3(trainable: Mapping[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    import deepspeed  # seconds, which only its runs should pay for

    with deepspeed.zero.GatheredParameters(list(trainable.values())):
        return {name: parameter.detach().cpu().clone() for name, parameter in trainable.items()}


def save_adapter(
    model: PeftModel,
    tensors: dict[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
    task: TrainTask,
    folder: Path,
) -> None:
    """Write ``adapter_model.safetensors`` with *tensors*, ``adapter_config.json`` and the tokenizer with its chat
    template. Nothing in them names a path of this machine."""
    # The base's own embedding stays out, even where it was resized: the adapter holds the rows that are new.
    model.save_pretrained(folder, state_dict=tensors, save_embedding_layers=False)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's card; the job writes its own
    _name_base(folder / "adapter_config.json", task)


def _name_base(config_path: Path, task: TrainTask) -> None:
    config = json.loads(config_path.read_text())
    config["base_model_name_or_path"] = task.base_model_name
    config["revision"] = task.base_model_revision
    write_json(config_path, config)
