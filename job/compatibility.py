"""What upstream can do together. Pure, for settings to be refused by, and for the plan to choose by.

Every rule was seen with peft 0.21, bitsandbytes 0.50, accelerate 1.15 and deepspeed 0.19. ``python -m
tests.worker.works`` tries all combinations, and a test holds its results equal to the rules.
"""

from job.adapters import KINDS, changes_base
from job.optimizers import OPTIMIZERS
from job.records import Precision, Quantization, Strategy
from job.settings import Settings

EVERY: tuple[Strategy, ...] = ("single", "ddp", "fsdp", "zero2", "zero3", "cpu")

# With these a model that draws answers, or gives samples of them, is whole in each process.
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


# By strategy, where not all work. Under FSDP accelerate puts parameters of its own, spread over the processes, in the
# place of those that the optimizer was made with: Adafactor and bitsandbytes do not know such tensors, Adagrad has its
# states already, and of SGD, which has none, no checkpoint can be written. DeepSpeed's ZeRO-3 writes Adagrad's states,
# and cannot read them again.
OPTIMIZERS_OF: dict[str, tuple[str, ...]] = {
    "fsdp": ("adamw_torch_fused", "adamw_torch", "rmsprop"),
    "zero3": tuple(name for name in OPTIMIZERS if name != "adagrad"),
}


def settled_optim(asked: str, strategy: Strategy, quantization: Quantization) -> str:
    """The optimizer that *asked*, which may be ``auto``, stands for."""
    if asked != "auto":
        return asked
    return "paged_adamw_32bit" if quantization == "nf4" and strategy in ("single", "ddp") else "adamw_torch_fused"


def quantizations(spec: Settings) -> list[Quantization]:
    """Those that *spec* leaves open, the most exact first."""
    if spec.adapter_start == "merge":
        return ["none"]  # a sum would be rounded to 4 or 8 bits again
    if spec.adapter == "qlora":
        return ["nf4"]
    return ["none", "nf4"] if spec.quantization == "auto" else [spec.quantization]


def works(spec: Settings, strategy: Strategy, quantization: Quantization) -> bool:
    """Whether upstream can combine these with what *spec* trains."""
    optim = settled_optim(spec.optim, strategy, quantization)
    shares = bool(adapter_dtypes(strategy, quantization, "bf16")) and optim in OPTIMIZERS_OF.get(strategy, OPTIMIZERS)
    return shares and objection(spec, strategy, quantization) is None


def objection(spec: Settings, strategy: Strategy, quantization: Quantization) -> str | None:
    """Why upstream cannot train the adapter of *spec* on such a base under *strategy*; None: it can."""
    return _to_the_base(spec, quantization) or _to_sharing(spec, strategy, quantization)


def can_checkpoint(spec: Settings) -> bool:
    """Whether activations can be recomputed. A prefix is a cache of keys and values, which the second pass would find
    longer than the first (transformers turns caches off when it recomputes)."""
    return spec.adapter != "prefix"


def can_offload(spec: Settings) -> bool:
    """Whether the base can wait in the host's memory. Of weights that are trained the gradients and the optimizer's
    step would go there too, on the CPU."""
    return not KINDS[spec.adapter].is_full


def can_pack(spec: Settings) -> bool:
    """Whether rows can share a sequence: virtual tokens would stand before the first of them alone."""
    return not KINDS[spec.adapter].is_prompt


def _to_the_base(spec: Settings, quantization: Quantization) -> str | None:
    if quantization == "none":
        return None
    if KINDS[spec.adapter].is_full:
        return "weights of 4 or 8 bits take no gradient"
    if spec.adapter in ("loha", "lokr") and quantization == "nf4":
        return "PEFT shapes its product after the weight, which 4-bit storage has packed into one column"
    if spec.use_dora and quantization == "int8":
        return "DoRA reads the weight before bitsandbytes has made its scales"
    if changes_base(spec) and spec.init_lora_weights != "olora":
        return "PiSSA takes its parts from weights of 16 or 32 bits alone"
    if changes_base(spec) and quantization == "nf4":
        return "OLoRA takes parts out of the base, and what is left is quantized anew, so that it is another base"
    return None


def _to_sharing(spec: Settings, strategy: Strategy, quantization: Quantization) -> str | None:
    if spec.num_generations and strategy not in DRAWS_WITH:
        return "answers are drawn token by token, and a shared base would come together for each of them"
    if spec.eval_samples and strategy not in DRAWS_WITH:
        return "JOB_EVAL_SAMPLES are answered by one process during training, which has but a part of a shared model"
    if strategy == "zero3" and spec.adapter == "loha":
        return "PEFT shapes LoHa after the weights, of which ZeRO-3 leaves each GPU a part"
    if strategy == "fsdp" and quantization == "none" and spec.adapter == "vera":
        return "VeRA's projections are buffers, which accelerate does not know how to hand out beside shared weights"
    return None
