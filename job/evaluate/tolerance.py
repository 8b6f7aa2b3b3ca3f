"""How far apart logits of the same adapter may be: in memory under training's strategy, and loaded anew."""

from job.adapters import changes_base
from job.records import Plan, Precision
from job.settings import Settings

# Of the largest logit. Another order of summation, another kernel, a matrix rounded at another place: a few units in
# the last place of what matrices are multiplied in (2^-24, 2^-11, 2^-8), which some tens of layers make some tens of.
# TF32, where the GPU has it, keeps 10 bits of float32's 23.
_OF_PRECISION: dict[Precision, float] = {"fp32": 2e-4, "fp16": 1e-2, "bf16": 5e-2}
# A quantized base is the same numbers in both places; bitsandbytes' int8 also rounds the activations, whose outliers
# may fall on the other side of its threshold.
_INT8 = 5e-2
# What PiSSA and OLoRA have taken out of the base was rounded there, and is given back as a difference.
_TAKEN = 2.0


def tolerance(spec: Settings, plan: Plan) -> float:
    """As a share of the largest logit."""
    share = _OF_PRECISION[plan.precision]
    if plan.quantization == "int8":
        share = max(share, _INT8)
    if plan.precision == "fp32" and plan.use_gpu:
        share = max(share, _OF_PRECISION["fp16"])  # TF32
    return share * (_TAKEN if changes_base(spec) else 1.0)
