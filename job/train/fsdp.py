"""What FSDP2 needs besides its topology, so that it computes what DDP does."""

from typing import Any

from accelerate import Accelerator
from peft import PeftModel
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from transformers import PreTrainedModel

from job.records import Plan
from job.train.model import DTYPES


def leave_outputs_unrounded(accelerator: Accelerator, plan: Plan) -> None:
    """Accelerate's policy rounds the model's outputs to 16 bits. Here those are log-probabilities, and three digits
    would be left of their sum. Gradients are summed in float32, as under DDP. To be called before the model is wrapped.
    """
    accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
        param_dtype=DTYPES[plan.precision], reduce_dtype=DTYPES["fp32"], output_dtype=None
    )


def gather_head(model: PeftModel | PreTrainedModel) -> None:
    """Have the head whole and on the GPU whenever the base model runs.

    TRL's fused loss reads the head's weight without calling it, so FSDP never gathers it. Offloaded, it would make the
    CPU compute the logits; and torch 2.13 fails on it where gradients are kept over micro-batches (pytorch #194058).
    FSDP shares it out again after the backward pass.
    """

    def gather(base: PreTrainedModel, _: Any) -> None:
        head = base.get_output_embeddings()
        if isinstance(head, FSDPModule):
            head.unshard()

    base: nn.Module = model.get_base_model() if isinstance(model, PeftModel) else model
    base.register_forward_pre_hook(gather)
