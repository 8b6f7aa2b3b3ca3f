"""The base model in numbers: what its tensors are for, told by their names, and the widths that its config.json gives.

Names are as in the safetensors headers, with every number written as ``*`` (`TensorGroup`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from job.adapter_size import Module, in_modules
from job.adapters import feedforward_modules
from job.records import ModelFacts, TensorGroup

_BLOCK = re.compile(r"(?:^|\.)(layers|h|blocks|layer)\.\*\.")
_EXPERT = re.compile(r"\.experts\.")
_NORM = re.compile(r"norm|ln_|layernorm", re.IGNORECASE)
_OUTPUT_HEADS = ("lm_head.weight", "embed_out.weight")
# Architectures that store weights as inputs × outputs (transformers' Conv1D).
TRANSPOSED = ("gpt2", "openai-gpt", "imagegpt")


@dataclass(frozen=True)
class Parameters:
    """Numbers of elements of the base model and of the adapter beside it."""

    linear: int  # in the layers' linear modules: what quantization replaces and an adapter stands beside
    experts: int  # of mixtures, which transformers holds in one tensor for all experts of a layer
    rest: int  # of the layers: norms, biases, routers
    outside: int  # embedding, head, last norm
    head: int  # multiplied with to get logits: the head, or the embedding where they are tied
    layers: int
    largest_linear: int
    active_share: float  # of the experts' elements, that one token passes through
    hidden: int  # width of the hidden states
    attention_width: int  # of all heads' queries together
    linear_inputs: int  # elements of a token that the layers' linear modules read, each tensor once
    adapter: int  # trained

    @property
    def total(self) -> int:
        return self.linear + self.experts + self.rest + self.outside

    @property
    def multiplied(self) -> float:
        """Elements that one token is multiplied with on its way forward."""
        return self.linear + self.experts * self.active_share + self.head


def count_parameters(model: ModelFacts, adapter: str, fields: Mapping[str, Any]) -> Parameters:
    """Sort *model*'s tensors by what they are for, and count what *adapter* with *fields* (`job.adapters.peft_fields`)
    trains beside them."""
    linear = [group for group in model.tensors if _is_linear(group)]
    experts = [group for group in model.tensors if _is_expert(group)]
    in_blocks = sum(group.numel for group in model.tensors if _BLOCK.search(group.name))
    outside = [group for group in model.tensors if not _BLOCK.search(group.name)]
    heads = [group for group in outside if group.name.endswith(_OUTPUT_HEADS)]
    linear_numel, expert_numel = sum(g.numel for g in linear), sum(g.numel for g in experts)
    return Parameters(
        linear=linear_numel,
        experts=expert_numel,
        rest=in_blocks - linear_numel - expert_numel,
        outside=sum(group.numel for group in outside),
        head=max((group.numel for group in heads or outside), default=0),
        layers=_layers(model),
        largest_linear=max((group.numel // group.count for group in linear), default=0),
        active_share=_active_share(model),
        hidden=_hidden(model),
        attention_width=_attention_width(model),
        linear_inputs=_layers(model) * (2 * _hidden(model) + _attention_width(model) + _intermediate(model)),
        adapter=_adapter(model, adapter, fields, targetable=[*linear, *outside]),
    )


def scoring(parameters: Parameters, model: ModelFacts) -> Parameters:
    """*parameters* with a head that gives one number, trained whole, in the place of that over the vocabulary."""
    heads = sum(group.numel for group in model.tensors if group.name.endswith(_OUTPUT_HEADS))
    left = heads if parameters.adapter == parameters.total else 0  # where all weights are trained
    return replace(
        parameters,
        outside=parameters.outside - heads,
        head=parameters.hidden,
        adapter=parameters.adapter - left + parameters.hidden,
    )


def targeted_modules(model: ModelFacts, target_modules: Sequence[str]) -> list[TensorGroup]:
    """The weights beside which *target_modules* put an adapter."""
    linear = [group for group in model.tensors if _is_linear(group)]
    return [group for group in linear if _is_targeted(group, target_modules, is_mixture(model))]


def is_mixture(model: ModelFacts) -> bool:
    """Whether it has experts."""
    return any(_is_expert(group) for group in model.tensors)


def _adapter(model: ModelFacts, adapter: str, fields: Mapping[str, Any], targetable: list[TensorGroup]) -> int:
    """All there is; or virtual tokens; or what stands in the targeted modules, and the modules that are trained
    whole."""
    if adapter == "full":
        return sum(group.numel for group in model.tensors)
    if adapter == "prompt":
        return int(fields["num_virtual_tokens"] * _hidden(model))
    if adapter == "prefix":
        return int(fields["num_virtual_tokens"] * _layers(model) * 2 * _key_width(model))
    targets = fields["target_modules"]
    matrices = [group for group in targetable if len(group.shape) == 2 and group.name.endswith(".weight")]
    mixture = is_mixture(model)
    if targets == ["all-linear"]:
        matrices = [group for group in matrices if _BLOCK.search(group.name)]
    modules = [_module(model, group) for group in matrices if _is_targeted(group, targets, mixture)]
    inside = in_modules(adapter, fields, modules, feedforward_modules(model.model_type, fields))
    return inside + sum(_whole(model, name) for name in fields.get("modules_to_save") or ())


def _module(model: ModelFacts, group: TensorGroup) -> Module:
    outputs, inputs = reversed(group.shape) if model.model_type in TRANSPOSED else group.shape
    return Module(group.name.removesuffix(".weight"), inputs, outputs, group.count)


def _whole(model: ModelFacts, name: str) -> int:
    """Elements of all modules of that *name*, or within them; a head that is tied is the embedding once more."""
    dotted = re.escape(re.sub(r"\d+", "*", name))
    inside = re.compile(rf"(?:^|\.){dotted}\.")
    found = sum(group.numel for group in model.tensors if inside.search(group.name))
    return found or (_hidden(model) * _vocabulary(model) if f"{name}.weight" in _OUTPUT_HEADS else 0)


def _layers(model: ModelFacts) -> int:
    """Number of decoder layers, at least 1."""
    return int(model.config.get("num_hidden_layers") or model.config.get("n_layer") or 1)


def _is_expert(group: TensorGroup) -> bool:
    return bool(_BLOCK.search(group.name) and _EXPERT.search(group.name) and len(group.shape) >= 2)


def _is_linear(group: TensorGroup) -> bool:
    return (
        bool(_BLOCK.search(group.name))
        and len(group.shape) == 2
        and group.dtype.startswith(("F", "BF"))  # the shape of packed weights tells nothing
        and not _EXPERT.search(group.name)
        and not _is_router(group)
        and not _NORM.search(group.name.split(".*.", 1)[-1].rsplit(".", 1)[0].rsplit(".", 1)[-1])
    )


def _is_router(group: TensorGroup) -> bool:
    return group.name.endswith((".gate.weight", ".router.weight"))


def _is_targeted(group: TensorGroup, target_modules: Sequence[str], mixture: bool) -> bool:
    """Of a mixture ``all-linear`` is attention alone (job/train/targets.py)."""
    module = group.name.removesuffix(".weight")
    if list(target_modules) == ["all-linear"]:
        return not mixture or "att" in module
    names = (re.sub(r"\d+", "*", target) for target in target_modules)
    return any(f".{module}".endswith(f".{name}") for name in names)


def _hidden(model: ModelFacts) -> int:
    return int(model.config.get("hidden_size") or model.config.get("n_embd") or 0)


def _attention_width(model: ModelFacts) -> int:
    heads, head_dim = model.config.get("num_attention_heads"), model.config.get("head_dim")
    return int(heads * head_dim) if heads and head_dim else _hidden(model)


def _vocabulary(model: ModelFacts) -> int:
    return int(model.config.get("vocab_size") or 0)


def _key_width(model: ModelFacts) -> int:
    """Of all heads' keys together."""
    config = model.config
    heads = config.get("num_attention_heads") or config.get("n_head") or 1
    head = config.get("head_dim") or _hidden(model) // heads
    return int((config.get("num_key_value_heads") or heads) * head)


def _intermediate(model: ModelFacts) -> int:
    return int(model.config.get("intermediate_size") or 4 * _hidden(model))  # GPT-2's and its descendants' habit


def _active_share(model: ModelFacts) -> float:
    config = model.config
    experts = next((config[name] for name in _EXPERT_COUNTS if config.get(name)), 0)
    return min(1.0, (config.get("num_experts_per_tok") or experts) / experts) if experts else 1.0


_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
