"""Which modules get an adapter."""

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

ALL_LINEAR = "all-linear"


def target_modules(model: PreTrainedModel, asked: Sequence[str]) -> str | list[str]:
    """PEFT's argument of that name. ``all-linear`` is every linear module but the head; of a mixture of experts it is
    attention's, by name.

    PEFT would adapt the experts and their router too, and hold all experts of a layer merged with their adapters in
    memory (0.21, tuners/lora/layer.py, ParamWrapper): tens of gigabytes for models of usual size. A dense or shared MLP
    beside them cannot be named alone, as PEFT translates its names to those of the experts
    (utils/transformers_weight_conversion.py).
    """
    if tuple(asked) != (ALL_LINEAR,):
        return list(asked)
    return _in_attention(model) if _has_fused_experts(model) else ALL_LINEAR


def _has_fused_experts(model: nn.Module) -> bool:
    return any(".experts." in name and parameter.ndim > 2 for name, parameter in model.named_parameters())


def _in_attention(model: nn.Module) -> list[str]:
    linear = (name.split(".") for name, module in model.named_modules() if isinstance(module, nn.Linear))
    return sorted({name for *parents, name in linear if any("att" in parent for parent in parents)})
