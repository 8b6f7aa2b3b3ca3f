"""What is trained as one set of whole tensors, wherever its parts are, and the folder it is published as."""

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from job.checkpoints import ON_TOP
from job.errors import Diverged
from job.records import TrainTask
from job.rundir import write_json

_PART, _ONE_FILE = "5GB", "1000TB"  # of a model's weights


def whole_adapter(model: nn.Module) -> dict[str, torch.Tensor]:
    """The trainable tensors of *model* by name, as `each_whole` gives them."""
    return dict(each_whole(model))


def each_whole(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Each trainable tensor of *model* with its name, whole and on the CPU. Every rank must go through all of them, as
    FSDP and ZeRO-3 leave each only a part."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            whole = _from_zero3(parameter) if hasattr(parameter, "ds_id") else _whole(parameter)
            yield name, whole.detach().cpu().clone()


def check_finite(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises:
    Diverged: a value of *tensors* is NaN or infinite.
    """
    if broken := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise Diverged(f"The trained weights hold NaN or infinity, first in {broken[0]}.", "Lower JOB_LEARNING_RATE.")


def _whole(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def _from_zero3(parameter: nn.Parameter) -> torch.Tensor:
    import deepspeed  # seconds, which only its runs should pay for

    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().clone()


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
    if model.peft_config["default"].is_prompt_learning:
        _save_virtual_tokens(model, tensors, folder)
    else:
        model.save_pretrained(folder, state_dict=tensors | _projections(model), save_embedding_layers=False)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's card; the job writes its own
    _name_base(folder / "adapter_config.json", task)
    if task.start and task.start.how == "merge":
        write_json(folder / ON_TOP, {"merged": task.start.location})


def save_whole_model(
    model: PreTrainedModel,
    tensors: Mapping[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    dtype: torch.dtype | None = None,
) -> None:
    """Write *model* with *tensors* as its weights, and the tokenizer with its chat template, as ``from_pretrained``
    reads them. With *dtype* it is for publishing, in parts; without one a checkpoint, exact and in one file."""
    kept = model.state_dict()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in kept}
    weights = {name: tensor.to(dtype or tensor.dtype) for name, tensor in tensors.items()}
    model.save_pretrained(folder, state_dict=weights | buffers, max_shard_size=_PART if dtype else _ONE_FILE)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"use_cache": True}  # which training turns off
    if dtype:
        config |= {"dtype": str(dtype).removeprefix("torch.")}
    write_json(folder / "config.json", config)


def _save_virtual_tokens(model: PeftModel, tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """As PEFT's ``save_pretrained``, which reads them from the model instead, where a rank may have only a part."""
    config = copy.copy(model.peft_config["default"])
    config.inference_mode = True
    config.save_pretrained(folder)
    (embeddings,) = tensors.values()
    save_file({"prompt_embeddings": embeddings.contiguous()}, folder / "adapter_model.safetensors", {"format": "pt"})


def has_untouched_base(model: nn.Module) -> bool:
    """Whether the base can still be had from *model*, below the adapter."""
    return isinstance(model, PeftModel) and not has_taken_from_base(model)


def has_taken_from_base(model: nn.Module) -> bool:
    """Whether the adapter began with parts of the base's weights, which the base in memory now lacks."""
    if not isinstance(model, PeftModel):
        return False
    return str(getattr(model.peft_config["default"], "init_lora_weights", "")).startswith(("pissa", "olora"))


def for_the_untouched_base(folder: Path, initial: Mapping[str, torch.Tensor]) -> None:
    """Make of the adapter in *folder*, which stands on a base that lacks *initial*, one that stands on the base as it
    is published: a LoRA of twice the rank, what was learned minus what was taken, ``B·A - B₀·A₀``.

    PEFT does the same (0.21, peft_model.py, ``path_initial_model_for_weight_conversion``), but only where the whole
    model is in one process.
    """
    path = folder / "adapter_model.safetensors"
    taken = {name.replace(".default.", "."): tensor for name, tensor in initial.items()}
    save_file({name: _twice(name, tensor, taken) for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    config = json.loads((folder / "adapter_config.json").read_text())
    growth = 2**0.5 if config["use_rslora"] else 2  # of alpha, so that the scaling stays
    config |= {"r": 2 * config["r"], "lora_alpha": growth * config["lora_alpha"], "init_lora_weights": True}
    write_json(folder / "adapter_config.json", config)


def _twice(name: str, tensor: torch.Tensor, taken: Mapping[str, torch.Tensor]) -> torch.Tensor:
    if ".lora_A." in name:
        return torch.cat([tensor, taken[name]], dim=0)
    return torch.cat([tensor, -taken[name]], dim=1) if ".lora_B." in name else tensor


def _projections(model: PeftModel) -> dict[str, torch.Tensor]:
    """The random projections that all of VeRA's layers share. They could be drawn anew from their seed, but not on
    every machine the same ones."""
    shared = ("base_model.vera_A.", "base_model.vera_B.")
    buffers = model.named_buffers(remove_duplicate=False)  # each layer refers to them as well
    return {name: buffer.cpu() for name, buffer in buffers if name.startswith(shared)}


def _name_base(config_path: Path, task: TrainTask) -> None:
    config = json.loads(config_path.read_text())
    config["base_model_name_or_path"] = task.base_model_name
    config["revision"] = task.base_model_revision
    if config.get("tokenizer_name_or_path"):
        config["tokenizer_name_or_path"] = task.base_model_name
    write_json(config_path, config)
