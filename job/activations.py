"""What one token of a training step occupies on a GPU, by a formula for the architectures that most models share.

Pure: no I/O, no torch. ``job.probe.activations`` measures the same for any architecture by running its code on fake
tensors, and a test holds the two within 5 % of each other. Of a decoder layer autograd keeps, of each token, in bytes
(two for an element of bfloat16 or float16, four for one of float32):

- 4 for each element a norm reads: transformers' RMSNorm works on a float32 copy; autocast has LayerNorm read one too;
- 2 for each element of query, key, value and output of attention, and 4 per head (log-sum-exp);
- 6 for each element in the middle of a gated MLP: gate, its activation, up;
- what the adapters read: 2 per element, once for all modules that read the same tensor, if adapters have its dtype and
  no dropout. Else each module keeps its own cast or dropped copy, with dropout one byte more: CUDA's mask is boolean;
- 2 for each of the r elements between lora_A and lora_B.

Frozen weights keep no inputs: not in ``nn.Linear``, nor in bitsandbytes' 4-bit product (autograd/_functions.py,
``MatMul4Bit``).
"""

from typing import Any, NamedTuple

from job.adapters import KINDS
from job.records import Activations, Precision
from job.settings import Settings


class Adapter(NamedTuple):
    """What of the LoRA adapter changes its memory."""

    dtype: Precision
    r: int
    dropout: float
    target_modules: tuple[str, ...]  # ("all-linear",) or names of modules

    def has(self, module: str) -> bool:
        return module in self.target_modules or self.target_modules == ("all-linear",)


class _Family(NamedTuple):
    """What an architecture does otherwise than Llama."""

    norms: int = 2  # in a layer, over the hidden size
    query_norm: bool = False  # norms over query and key too
    eager: bool = False  # soft-capped scores, which no fused kernel computes
    fused: bool = False  # one product for query, key and value, and one for gate and up
    parallel: bool = False  # attention and a plain MLP read the same LayerNorm


_FAMILIES = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "gemma", "granite", "smollm3"), _Family()),
    "qwen3": _Family(query_norm=True),
    "gemma2": _Family(norms=4, eager=True),
    "gemma3_text": _Family(norms=4, query_norm=True),
    "phi3": _Family(fused=True),
    "phi": _Family(norms=1, parallel=True),
}
# Activations that are one kernel, which keeps its input alone.
_ONE_KERNEL = {"silu", "gelu", "gelu_pytorch_tanh"}


class _Sizes(NamedTuple):
    """Elements of a token."""

    hidden: int
    query: int
    key: int
    heads: int
    head: int
    intermediate: int
    layers: int


class _Read(NamedTuple):
    """A tensor that adapted modules read."""

    width: int
    modules: tuple[str, ...]
    kept: bool = False  # for another reason
    float32: bool = False


def activations(config: dict[str, Any], adapter: Adapter, tokens: int, masked: bool) -> Activations | None:
    """Bytes of a token in rows of *tokens*, for a base in bfloat16 or float16; None for an unknown architecture.

    *masked*: attention gets a mask, see `is_masked`.
    """
    family, sizes = _FAMILIES.get(config.get("model_type", "")), _sizes(config)
    if family is None or sizes is None or not _is_known(config, family):
        return None
    layer = _layer(config, family, sizes, adapter) + _attention(family, sizes, tokens, masked)
    moment = _moment(family, sizes, adapter)
    transient = max(20 * sizes.hidden, moment)  # the last norm's gradients in float32, or a layer's
    mask = tokens if masked or family.eager else 0  # booleans of one row of the mask, shared by all layers
    rotary = 4 * sizes.head  # sines and cosines, shared by all layers
    return Activations(
        saved=sizes.layers * layer + rotary + mask,
        boundary=2 * sizes.hidden * sizes.layers + 4 * sizes.hidden + rotary + mask,
        layer=layer + moment - transient,
        transient=transient,
        source="formula",
    )


def is_masked(config: dict[str, Any], tokens: int, padded: bool, packed: bool) -> bool:
    """Whether transformers hands attention a mask: for padding, packed rows, or rows longer than a sliding window.

    Without one, fused kernels need none and group the heads of key and value themselves (transformers,
    integrations/sdpa_attention.py, ``use_gqa_in_sdpa``; masking_utils.py, ``_ignore_causal_mask_sdpa``).
    """
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    return padded or packed or (window is not None and tokens >= window)


def _sizes(config: dict[str, Any]) -> _Sizes | None:
    try:
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        # Qwen3's and Gemma's heads are as wide as their classes say, not as the hidden size allows.
        own = config["model_type"].startswith(("qwen3", "gemma"))
        head = config["head_dim"] if own else config.get("head_dim") or hidden // heads
        key = config["num_key_value_heads"] * head
        return _Sizes(hidden, heads * head, key, heads, head, config["intermediate_size"], config["num_hidden_layers"])
    except (KeyError, TypeError):  # absent or null: the class knows
        return None


def _is_known(config: dict[str, Any], family: _Family) -> bool:
    act = config.get("hidden_activation") or config.get("hidden_act") or "silu"
    return act == "gelu_new" and not config.get("qk_layernorm") if family.parallel else act in _ONE_KERNEL


def _layer(config: dict[str, Any], family: _Family, sizes: _Sizes, adapter: Adapter) -> float:
    """Bytes that a layer keeps, attention's kernel apart."""
    norms = 4 * family.norms * sizes.hidden
    if family.query_norm:
        norms += 4 * (sizes.query + sizes.key)
    # gelu_new in plain operations: its input and cube in float32, tanh and 1 + tanh in float32, half of the input.
    middle = (14 if family.parallel else 6) * sizes.intermediate
    dropout = 2 * sizes.hidden if config.get("resid_pdrop") else 0  # masks of both residual branches
    return norms + middle + dropout + sum(_adapters(read, adapter) for read in _reads(family, sizes))


def _reads(family: _Family, sizes: _Sizes) -> list[_Read]:
    hidden, query, middle = sizes.hidden, sizes.query, sizes.intermediate
    if family.parallel:
        # Partial rotation lays out the output of attention so that it is copied for the next product.
        first = _Read(hidden, ("q_proj", "k_proj", "v_proj", "fc1"), float32=True)
        return [first, _Read(query, ("dense",)), _Read(middle, ("fc2",), float32=True)]
    attention = ("qkv_proj",) if family.fused else ("q_proj", "k_proj", "v_proj")
    return [
        _Read(hidden, attention),
        _Read(query, ("o_proj",), kept=not family.fused and not family.eager),
        _Read(hidden, ("gate_up_proj",) if family.fused else ("gate_proj", "up_proj")),
        _Read(middle, ("down_proj",)),
    ]


def _adapters(read: _Read, adapter: Adapter) -> float:
    count = sum(adapter.has(module) for module in read.modules)
    if not count:
        return 0
    if adapter.dropout:
        copies = 3 * count
    elif adapter.dtype == "fp32" or read.float32:
        copies = 2 * count
    else:
        copies = 0 if read.kept else 2
    return copies * read.width + 2 * adapter.r * count


def _attention(family: _Family, sizes: _Sizes, tokens: int, masked: bool) -> float:
    """Bytes that attention's kernel keeps of one layer."""
    query, key = sizes.query, sizes.key
    if family.eager:
        # Query, key and value of all heads; of the scores tanh, the softmax in float32 and its cast.
        return 6 * query + 8 * sizes.heads * tokens
    kernel = 4 * query + 4 * sizes.heads
    if masked:
        # Key and value repeated to all heads, but a single one as a view of itself; the mask in the query's dtype.
        repeated = query if key > sizes.head else key
        return kernel + 4 * repeated + 2 * tokens
    # A value that is part of a fused product keeps all of it.
    return kernel + (2 * query + 6 * key if family.fused else 4 * key)


def _moment(family: _Family, sizes: _Sizes, adapter: Adapter) -> float:
    """Bytes that the backward pass of a layer needs beyond what it kept, at the fullest moment.

    That is in its MLP: gradients of the middle, from the base and from the adapter in its dtype, before their sum. The
    smaller terms are fitted to the dry run of Llama, Qwen, Gemma and Phi.
    """
    hidden, middle = sizes.hidden, sizes.intermediate
    if family.parallel:
        return 40 * hidden
    if not adapter.has("down_proj"):
        return 6 * middle - 2 * hidden
    more = 4 * hidden if family.norms > 2 else 0
    if adapter.dtype == "fp32":
        return (10 if adapter.dropout else 6) * middle + 6 * hidden + more
    return (2 * middle + 6 * hidden if adapter.dropout else 4 * middle - 2 * hidden) + more


def knows(config: dict[str, Any]) -> bool:
    """Whether the formula holds for a model of that *config*."""
    return activations(config, Adapter("bf16", 1, 0.0, ("all-linear",)), tokens=1, masked=False) is not None


def formula_holds(spec: Settings, config: dict[str, Any]) -> bool:
    """Whether the formula holds for the adapter of *spec* too: for LoRA as it was published, and for virtual tokens,
    which put nothing into the layers."""
    return knows(config) and (
        KINDS[spec.adapter].is_prompt or ("lora_r" in KINDS[spec.adapter].settings and not spec.use_dora)
    )
