"""The base model in numbers: what its tensors are for, told by their names, and the widths that its config.json gives.

Names are as in the safetensors headers, with every number written as ``*`` (`TensorGroup`).
"""

import re
from dataclasses import dataclass

from job.records import ModelFacts, TensorGroup

_BLOCK = re.compile(r"(?:^|\.)(layers|h|blocks|layer)\.\*\.")
_EXPERT = re.compile(r"\.experts\.")
_NORM = re.compile(r"norm|ln_|layernorm", re.IGNORECASE)
_OUTPUT_HEADS = ("lm_head.weight", "embed_out.weight")


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


def count_parameters(model: ModelFacts, lora_r: int, target_modules: tuple[str, ...]) -> Parameters:
    """Sort *model*'s tensors by what they are for, and count LoRA's A (r × in) and B (out × r) beside every targeted
    linear module."""
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
        adapter=sum(lora_r * sum(g.shape) * g.count for g in linear if _is_targeted(g, target_modules, bool(experts))),
    )


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


def _is_targeted(group: TensorGroup, target_modules: tuple[str, ...], is_mixture: bool) -> bool:
    """Of a mixture ``all-linear`` is attention alone (job/train/targets.py)."""
    module = group.name.removesuffix(".weight")
    if target_modules == ("all-linear",):
        return not is_mixture or "att" in module
    return any(f".{module}".endswith(f".{target}") for target in target_modules)


def _hidden(model: ModelFacts) -> int:
    return int(model.config.get("hidden_size") or model.config.get("n_embd") or 0)


def _attention_width(model: ModelFacts) -> int:
    heads, head_dim = model.config.get("num_attention_heads"), model.config.get("head_dim")
    return int(heads * head_dim) if heads and head_dim else _hidden(model)


def _intermediate(model: ModelFacts) -> int:
    return int(model.config.get("intermediate_size") or 4 * _hidden(model))  # GPT-2's and its descendants' habit


def _active_share(model: ModelFacts) -> float:
    config = model.config
    experts = next((config[name] for name in _EXPERT_COUNTS if config.get(name)), 0)
    return min(1.0, (config.get("num_experts_per_tok") or experts) / experts) if experts else 1.0


_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
