"""What upstream can do together. Pure, for the plan to choose by and the worker to refuse by; seen with bitsandbytes
0.50, accelerate 1.15, deepspeed 0.19."""

from job.optimizers import OPTIMIZERS
from job.records import Precision, Quantization, Strategy

# With these a model draws answers as one that is whole in each process: sharded, the base would come together for every
# token, and DeepSpeed's engine steps its optimizer by its own count of passes.
DRAWS_WITH: tuple[Strategy, ...] = ("single", "ddp", "cpu")


def adapter_dtypes(strategy: Strategy, quantization: Quantization, precision: Precision) -> tuple[Precision, ...]:
    """The dtypes that an adapter can have over such a base, the most exact first; none if these cannot be combined."""
    if strategy == "fsdp" and quantization == "int8":
        return ()  # sharded, an int8 weight leaves its scales behind ('Parameter' object has no attribute 'CB')
    if strategy in ("zero2", "zero3"):
        return (precision,)  # DeepSpeed trains a float32 copy and writes it back in the precision of the run
    if precision == "bf16" and not (strategy == "fsdp" and quantization == "none"):
        return ("fp32", "bf16")
    return ("fp32",)  # fp16: gradients of another dtype cannot be unscaled; fsdp: accelerate casts it to float32


def works(strategy: Strategy, quantization: Quantization, optim: str) -> bool:
    """Whether upstream can combine them."""
    return bool(adapter_dtypes(strategy, quantization, "bf16")) and optim in OPTIMIZERS_OF.get(strategy, OPTIMIZERS)


# By strategy, where not all work. Under FSDP accelerate puts parameters of its own, spread over the processes, in the
# place of those that the optimizer was made with: Adafactor and bitsandbytes do not know such tensors, Adagrad has its
# states already, and of SGD, which has none, no checkpoint can be written.
OPTIMIZERS_OF: dict[str, tuple[str, ...]] = {"fsdp": ("adamw_torch_fused", "adamw_torch", "rmsprop")}


def settled_optim(asked: str, strategy: Strategy, quantization: Quantization) -> str:
    """The optimizer that *asked*, which may be ``auto``, stands for."""
    if asked != "auto":
        return asked
    return "paged_adamw_32bit" if quantization == "nf4" and strategy in ("single", "ddp") else "adamw_torch_fused"
