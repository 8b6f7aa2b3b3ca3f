"""The decoder layers of a model: where they are, how their kinds repeat, which of their weights would be quantized."""

from typing import NamedTuple

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module


class Depths(NamedTuple):
    """Two numbers of layers whose difference repeats up to the whole model."""

    few: int
    more: int
    whole: int

    def extrapolate(self, few: float, more: float) -> float:
        """The value of the whole model from the values of the two."""
        if self.few == self.more:
            return more
        return few + (more - few) * (self.whole - self.few) / (self.more - self.few)


def stack(model: nn.Module) -> nn.ModuleList:
    """The list of decoder layers: the longest of the model's lists that is not inside another one."""
    return max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=_size)


def _size(layers: nn.ModuleList) -> int:
    return sum(parameter.numel() for parameter in layers.parameters())


def depths(layers: nn.ModuleList, config: PreTrainedConfig) -> Depths:
    """The shallowest pair of depths from which on the kinds of layers repeat (dense ones first, every sixth with full
    attention, …); the whole model twice where they do not."""
    kinds = _kinds(layers, config)
    whole = len(kinds)
    found = [Depths(whole, whole, whole)]
    for start in range(whole):
        for period in range(1, whole - start):
            few = start + period + (whole - start) % period
            if few + period < found[-1].more and kinds[start:-period] == kinds[start + period :]:
                found.append(Depths(few, few + period, whole))
    return found[-1]


def _kinds(layers: nn.ModuleList, config: PreTrainedConfig) -> list[int]:
    """A number for each layer, equal for equal ones."""
    names = getattr(config, "layer_types", None) or [None] * len(layers)
    described = [
        # Nothing before the first layer is trained, so its backward pass ends earlier.
        (index == 0, name, tuple((key, parameter.shape) for key, parameter in layer.named_parameters()))
        for index, (name, layer) in enumerate(zip(names, layers, strict=False))
    ]
    return [described.index(layer) for layer in described]


def quantized_linears(model: PreTrainedModel) -> list[int]:
    """Parameters of each weight that bitsandbytes would quantize: those of ``nn.Linear``, without the head.

    Experts that transformers fuses into one parameter are none of these (transformers/integrations/bitsandbytes.py,
    ``replace_with_bnb_linear``: ``type(module) is nn.Linear``).
    """
    kept = get_keys_to_not_convert(model)
    return [
        module.weight.numel()
        for name, module in model.named_modules()
        if type(module) is nn.Linear and should_convert_module(name, kept)
    ]
