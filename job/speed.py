"""How fast a setup trains, by arithmetic: floating-point operations, bytes that must move, and kernels to start.

The first figures of a run replace these. What no GPU has confirmed yet is said where it stands.
"""

from job.facts.gpus import GpuSpeed
from job.memory import NF4_BYTES, Setup, base_bytes
from job.parameters import Parameters

# Share of a GPU's peak that matrix products reach in training: the best published LoRA run of an 8B model on one H100
# (NeMo AutoModel, 12,473 tokens/s) is 42 % by the 4N count. Stated for every GPU, measured on none.
EFFICIENCY = 0.42
# Seconds from one layer's forward kernels to the next, however small the layer: some sixty kernel starts of Python and
# PyTorch for Hugging Face's code with LoRA. The backward pass has twice as many. Stated, not measured.
LAYER_START_S = 0.0006
# Share of a link's specification that collectives reach (NCCL's bus bandwidth). Stated, not measured.
LINK_EFFICIENCY = 0.7


def flops_per_token(parameters: Parameters, setup: Setup) -> float:
    """Operations for one token, padding or not.

    2N forward and 2N for the gradients that flow through N frozen parameters (Kaplan et al., arXiv 2001.08361, section
    2.1, without the 2N of the weights' own gradients), 6 per trained parameter, and 2N + 2 once more when layers are
    recomputed.
    """
    matrices = 2 * parameters.multiplied
    again = 1 if setup.gradient_checkpointing else 0
    again += setup.forwards
    # Of weights that are trained themselves there is but their own gradient more.
    trained = matrices if setup.full else (6 + 2 * again) * parameters.adapter
    return (2 + again) * matrices + trained + _attention(parameters, setup, again)


def _attention(parameters: Parameters, setup: Setup, again: int) -> float:
    """Scores and weighted values: 4 operations per pair of tokens and element, half of the pairs when the kernel knows
    that attention is causal, all of them when it gets a mask. Backward is 2.5 times forward (FlashAttention-2, arXiv
    2307.08691, section 4.1)."""
    row = setup.tokens if setup.packing else setup.length
    pairs = row if setup.masked else row / 2
    return (3.5 + again) * 4 * pairs * parameters.attention_width * parameters.layers


def micro_step_s(parameters: Parameters, setup: Setup, gpu: GpuSpeed) -> float:
    """Seconds that one GPU takes for one forward and backward pass over its ``setup.tokens`` tokens."""
    compute = setup.tokens * flops_per_token(parameters, setup) / (gpu.tflops * 1e12 * EFFICIENCY)
    # Forward once, backward worth two, forward again, and those of a reference.
    passes = (4 if setup.gradient_checkpointing else 3) + setup.forwards
    starts = passes * parameters.layers * LAYER_START_S
    return max(compute + _dequantization_s(parameters, setup, gpu), starts, _traffic_s(parameters, setup, gpu))


def _dequantization_s(parameters: Parameters, setup: Setup, gpu: GpuSpeed) -> float:
    """Every use of a 4-bit weight reads it, and writes and reads it in 16 bits; int8 does so on the way back only."""
    uses = {"none": 0, "int8": 1, "nf4": 3 if setup.gradient_checkpointing else 2}[setup.quantization]
    return uses * parameters.linear * (NF4_BYTES + 2 + 2) / (gpu.memory_gb_s * 1e9)


def _traffic_s(parameters: Parameters, setup: Setup, gpu: GpuSpeed) -> float:
    """The base, brought together for the forward and once more for the backward pass while other layers compute.
    Under ddp only the adapter's gradients travel, once in a step, which is nothing beside it."""
    if not setup.shards_base:
        return 0
    base, others = base_bytes(parameters, setup), (setup.num_processes - 1) / setup.num_processes
    between = 2 * base * others / (gpu.link_gb_s * 1e9 * LINK_EFFICIENCY)
    from_host = 2 * base / setup.num_processes / (gpu.host_gb_s * 1e9 * LINK_EFFICIENCY) if setup.cpu_offload else 0
    return between + from_host
