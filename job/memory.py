"""How much of a GPU's memory a training step will fill, by arithmetic alone. `docs/memory-model.md` does it by hand.

Pure: from the safetensors headers, the activations per token and a `Setup` to a `MemoryEstimate`, line by line. What a
GPU run has not confirmed yet is said where it stands.
"""

from dataclasses import dataclass
from typing import Any

from job.optimizers import OPTIMIZERS
from job.parameters import Parameters
from job.records import Activations, MemoryEstimate, MemoryItem, Precision, Quantization, Strategy

GIB = 2**30
# Of a GPU's memory, what a plan may use: the rest is for what varies between runs.
USABLE_SHARE = 0.9
BYTES: dict[Precision, int] = {"bf16": 2, "fp16": 2, "fp32": 4}
# NF4 with double quantization (QLoRA, arXiv 2305.14314, section 3): 4 bits, an 8-bit scale for every 64 elements, and a
# 32-bit one for every 256 of those scales.
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# LLM.int8(): 8 bits, and a 32-bit scale per output row, which adds less than a thousandth.
INT8_BYTES = 1.0
# TRL's fused head scores this many tokens against this much of the vocabulary at a time, and holds the tile for all of
# it however small the vocabulary (trl 1.16:
# kernels/chunked_logprob.py TOKEN_CHUNK_SIZE, trainer/utils.py _CHUNKED_LOGPROB_CHUNK_SIZE).
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
# Per scored token and hidden element, at the head's backward pass: the copy of the scored hidden states in 16 bits, the
# sum of their gradient in 32 bits and its cast (chunked_logprob.py, `backward`).
HEAD_BYTES = 2 + 4 + 2
# FSDP2 holds the layer it computes and the one it prefetches (torch.distributed.fsdp, fully_shard).
GATHERED_LAYERS = 2
# DeepSpeed keeps up to this many gathered parameters alive (stage3_max_live_parameters, its default).
ZERO3_LIVE = 1_000_000_000
# Kernels, cuBLAS workspaces and the driver's own share of a process. Stated, not measured.
CONTEXT_GIB = 0.6
# Buffers and channels of NCCL between the GPUs of one machine. Stated, not measured.
NCCL_GIB = 0.5
# Logits, the processors' copy, and probabilities.
SAMPLING_COPIES = 3
# A cache grows by concatenation, which holds a layer's old keys and values beside the new ones; and freed blocks of
# other sizes stay with the allocator. Stated, not measured.
CACHE_GROWTH = 1.1
# Of what comes and goes in a step, what PyTorch's allocator holds without using it. Stated, not measured.
SLACK = 0.05


@dataclass(frozen=True)
class Setup:
    """One way to run the job, as far as memory and speed depend on it."""

    strategy: Strategy
    num_processes: int
    quantization: Quantization
    precision: Precision
    adapter_dtype: Precision
    cpu_offload: bool
    gradient_checkpointing: bool
    per_device: int  # rows or packs in one forward pass
    length: int  # tokens of the longest of them
    packing: bool
    masked: bool  # attention gets a mask and looks at all pairs of tokens
    optim: str
    dropout: bool
    drawn: int = 0  # answers that are drawn at a time; 0: the rows hold them
    cache_per_token: int = 0  # bytes of keys and values
    vocabulary: int = 0
    reward_bytes: int = 0  # of a reward model's weights
    sequences: int = 1  # of each row
    forwards: int = 0  # passes over a micro-batch of which nothing is kept
    scores: bool = False  # one number for each sequence, and no head over the vocabulary
    full: bool = False  # the base's own weights are trained, and nothing beside them

    @property
    def tokens(self) -> int:
        """Tokens of the largest micro-batch, padding included."""
        return self.per_device * self.sequences * self.length

    @property
    def shards_base(self) -> bool:
        """Whether each GPU keeps only its part of the base between uses."""
        return self.strategy in ("fsdp", "zero3")

    @property
    def autocasts(self) -> bool:
        """Whether a 32-bit adapter meets 16-bit activations, so that every module casts the one to the other. FSDP2
        and DeepSpeed hand the modules 16-bit weights to begin with."""
        return self.adapter_dtype == "fp32" and self.precision != "fp32" and self.strategy in ("single", "ddp")


def estimate(parameters: Parameters, activations: Activations, setup: Setup, memory_gib: float) -> MemoryEstimate:
    """What one GPU of *memory_gib* holds at the fullest moment of a step, with *activations* for *setup*'s dtypes."""
    kept = [_base(parameters, setup), _gathered(parameters, setup), *_adapter(parameters, setup), _judge(setup)]
    passing = [
        _activations(activations, setup),
        _int8_inputs(parameters, setup),
        _peak(parameters, activations, setup),
    ]
    slack = MemoryItem(
        name="allocator slack",
        gib=SLACK * sum(item.gib for item in passing),
        why=f"{SLACK:.0%} of what comes and goes in a step",
    )
    fixed = [MemoryItem(name="CUDA context", gib=CONTEXT_GIB, why="kernels and cuBLAS workspaces")]
    if setup.num_processes > 1:
        fixed.append(MemoryItem(name="NCCL", gib=NCCL_GIB, why="buffers between the GPUs"))
    training = [item for item in (*kept, *passing, slack, *fixed) if item.gib]
    drawing = [item for item in (*kept, *_drawing(activations, setup), *fixed) if item.gib] if setup.drawn else []
    loading = [*_loading(parameters, setup), *fixed]
    fullest = max(training, drawing, loading, key=lambda items: sum(item.gib for item in items))
    return MemoryEstimate(items=tuple(fullest), limit_gib=USABLE_SHARE * memory_gib)


def base_bytes(parameters: Parameters, setup: Setup) -> float:
    """Bytes of the whole frozen base. Experts of a mixture, embedding and head are never quantized."""
    dense = BYTES[setup.precision]
    per_linear = {"none": float(dense), "int8": INT8_BYTES, "nf4": NF4_BYTES}[setup.quantization]
    return per_linear * parameters.linear + dense * (parameters.total - parameters.linear)


def _loading(parameters: Parameters, setup: Setup) -> list[MemoryItem]:
    """Before it is shared out, bitsandbytes has quantized the whole base on each GPU, and accelerate's state dict holds
    it until the last part is in its place (1.15, utils/fsdp_utils.py, fsdp2_prepare_model). An unquantized base is
    handed out from the first process's memory part by part."""
    if not setup.shards_base or setup.quantization == "none":
        return []
    whole, largest = base_bytes(parameters, setup), BYTES[setup.precision] * parameters.largest_linear
    return [
        MemoryItem(name="base while it is loaded", gib=whole / GIB, why="quantized whole on each GPU, then shared"),
        MemoryItem(name="its first parts", gib=whole / setup.num_processes / GIB, why="beside the whole"),
        MemoryItem(name="a weight being quantized", gib=largest / GIB, why="the largest"),
    ]


def _base(parameters: Parameters, setup: Setup) -> MemoryItem:
    whole = base_bytes(parameters, setup)
    if setup.full:
        return MemoryItem(name="base weights", gib=0, why="trained, and counted so")
    if setup.cpu_offload:
        return MemoryItem(name="base weights", gib=0, why="in the host's memory")
    held = {"none": setup.precision, "int8": "int8 linear layers", "nf4": "NF4 linear layers"}[setup.quantization]
    if setup.shards_base:
        why = f"{whole / GIB:.1f} GiB ({held}) shared by {setup.num_processes} GPUs"
        return MemoryItem(name="base weights", gib=whole / setup.num_processes / GIB, why=why)
    return MemoryItem(name="base weights", gib=whole / GIB, why=f"{parameters.total / 1e6:,.1f}M parameters, {held}")


def _gathered(parameters: Parameters, setup: Setup) -> MemoryItem:
    if not setup.shards_base:
        return MemoryItem(name="gathered weights", gib=0, why="")
    outside = BYTES[setup.precision] * parameters.outside
    layers = base_bytes(parameters, setup) - outside
    if setup.strategy == "zero3":
        live = min(layers, BYTES[setup.precision] * ZERO3_LIVE)
        return MemoryItem(name="gathered weights", gib=(outside + live) / GIB, why="what DeepSpeed keeps alive")
    held = outside + layers * min(1, GATHERED_LAYERS / parameters.layers)
    why = f"embedding, head and {GATHERED_LAYERS} layers in use"
    return MemoryItem(name="gathered weights", gib=held / GIB, why=why)


def _adapter(parameters: Parameters, setup: Setup) -> list[MemoryItem]:
    """Parameters, gradients, DDP's buckets (a second copy of the gradients) and the optimizer's states."""
    size, optimizer = BYTES[setup.adapter_dtype], OPTIMIZERS[setup.optim]
    held = setup.num_processes if setup.shards_base else 1
    updated = setup.num_processes if setup.shards_base or setup.strategy == "zero2" else 1
    gradients = size * (2 if setup.strategy == "ddp" else 1)
    copies = 0
    if setup.strategy in ("zero2", "zero3"):
        # DeepSpeed's optimizer trains a 32-bit copy, from 32-bit gradients (runtime/zero/stage_1_and_2.py, stage3.py).
        size, copies = BYTES["fp32"], 2
    states = 0.0 if optimizer.paged else optimizer.states * (optimizer.state_bytes or size)
    kept = states + copies * size
    # Autocast keeps the 16-bit copy of a 32-bit weight until the step is over (torch.clear_autocast_cache).
    cast = BYTES["bf16"] if setup.autocasts else 0
    return [
        MemoryItem(
            name="weights and gradients" if setup.full else "adapter and gradients",
            gib=parameters.adapter * (BYTES[setup.adapter_dtype] / held + gradients / updated + cast) / GIB,
            why=f"{parameters.adapter / 1e6:.1f}M parameters in {setup.adapter_dtype}",
        ),
        MemoryItem(name="optimizer", gib=parameters.adapter * kept / updated / GIB, why=setup.optim),
    ]


def _activations(activations: Activations, setup: Setup) -> MemoryItem:
    per_token = activations.boundary if setup.gradient_checkpointing else activations.saved
    what = "the layers' inputs" if setup.gradient_checkpointing else "all layers"
    return MemoryItem(
        name="activations",
        gib=per_token * setup.tokens / GIB,
        why=f"{setup.per_device * setup.sequences} × {setup.length} tokens × {per_token / 2**20:.2f} MiB, {what} "
        f"({activations.source})",
    )


def _judge(setup: Setup) -> MemoryItem:
    return MemoryItem(name="reward model", gib=setup.reward_bytes / GIB, why="its weights, on each GPU")


def _drawing(activations: Activations, setup: Setup) -> list[MemoryItem]:
    """While answers are drawn: all of a step at once (trl 1.16, `_generate_single_turn`), with keys and values of every
    token so far, and the last token's logits, which sampling copies and normalizes in 32 bits (transformers 5.23,
    generation/utils.py, `_sample`). No activations are kept; the prompts pass through a layer at a time."""
    tokens = setup.drawn * setup.length
    logits = setup.drawn * setup.vocabulary * BYTES["fp32"] * SAMPLING_COPIES
    return [
        MemoryItem(
            name="keys and values",
            gib=tokens * setup.cache_per_token * CACHE_GROWTH / GIB,
            why=f"{setup.drawn} answers × {setup.length} tokens × {setup.cache_per_token / 2**10:.0f} KiB, and the "
            "layer that is being lengthened",
        ),
        MemoryItem(name="logits to draw from", gib=logits / GIB, why=f"{setup.drawn} × {setup.vocabulary:,} in fp32"),
        MemoryItem(name="prompts read", gib=tokens * activations.transient / GIB, why="one layer at a time"),
    ]


def cache_per_token(config: dict[str, Any], precision: Precision) -> int:
    """Bytes of keys and values of one token in all layers of a model with that ``config.json``."""
    heads = int(config.get("num_attention_heads") or 1)
    size = int(config.get("head_dim") or int(config.get("hidden_size") or 0) // heads)
    layers, shared = int(config.get("num_hidden_layers") or 0), int(config.get("num_key_value_heads") or heads)
    return 2 * layers * shared * size * BYTES[precision]


def _int8_inputs(parameters: Parameters, setup: Setup) -> MemoryItem:
    """bitsandbytes' 8-bit product holds on to its input by other means than autograd's (0.50, autograd/_functions.py,
    MatMul8bitLt: ``ctx.tensors``), so that checkpointing cannot let go of it. Without checkpointing the adapters keep
    the same tensors, unless dropout has made them copies."""
    needed = setup.quantization == "int8" and (setup.gradient_checkpointing or setup.dropout)
    gib = BYTES["bf16"] * parameters.linear_inputs * setup.tokens / GIB if needed else 0
    return MemoryItem(name="inputs of int8 layers", gib=gib, why="which checkpointing does not free")


def _peak(parameters: Parameters, activations: Activations, setup: Setup) -> MemoryItem:
    """The larger of two moments: the loss head's backward pass, or that of one layer."""
    tile = min(setup.tokens, TILE_TOKENS) * TILE_VOCABULARY * BYTES["bf16"]
    head = 0 if setup.scores else tile + setup.tokens * parameters.hidden * HEAD_BYTES
    # The head's own gradient is summed over the tiles in 32 bits (chunked_logprob.py, `backward`).
    head += BYTES["fp32"] * parameters.head if setup.full else 0
    recomputed = activations.layer if setup.gradient_checkpointing else 0
    dequantized = 0 if setup.quantization == "none" else BYTES[setup.precision] * parameters.largest_linear
    layer = setup.tokens * (activations.transient + recomputed) + dequantized
    if head > layer:
        return MemoryItem(name="loss head", gib=head / GIB, why="logits in tiles, and the hidden states' gradient")
    what = "recomputed and differentiated" if recomputed else "differentiated"
    extra = ", with its largest weight dequantized" if dequantized else ""
    return MemoryItem(name="backward pass", gib=layer / GIB, why=f"one layer {what}{extra}")
