"""``python -m job.probe.activations TASK_JSON OUT_DIR``: what one token of a training step occupies on a GPU.

The real modelling code of transformers and PEFT runs forward and backward on fake tensors: they have shapes, dtypes and
lifetimes, but no data, so a 405B model takes a second on a laptop. What lives is counted as it is made and freed. The
loss head is apart: the last hidden state is let go, and a gradient of its shape comes back.
"""

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.lycoris_utils import LycorisLayer
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from job.adapters import KINDS
from job.child import run_child
from job.probe.layers import Depths, depths, quantized_linears, stack
from job.probe.live import Bytes, GpuKernels, LiveBytes
from job.records import Activations, DryRun, DryRunTask, Precision
from job.rundir import read_record, write_json
from job.train.adapters import peft_config

REASON_LENGTH = 160  # characters; upstream's messages can be a page long
DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# transformers' sdpa, with the mask it gets decided here: on fake tensors upstream cannot look whether one is needed.
UNMASKED, MASKED = "graft_unmasked", "graft_masked"


Trainable: TypeAlias = PeftModel | PreTrainedModel


class Parts(NamedTuple):
    """`Activations` before they are one: each of their parts, of a token and fixed."""

    saved: Bytes
    boundary: Bytes
    layer: Bytes
    transient: Bytes


def dry_run(task: DryRunTask) -> DryRun:
    """The findings, or why there are none: any architecture may refuse fake tensors in its own way."""
    try:
        config = AutoConfig.from_pretrained(task.model_path, trust_remote_code=False).get_text_config()
        return measure(config, task, FakeTensorMode())
    except Exception as error:
        return DryRun(failure=f"the dry run could not be made ({type(error).__name__}: {error})"[:REASON_LENGTH])


def measure(config: PreTrainedConfig, task: DryRunTask, tensors: AbstractContextManager[Any]) -> DryRun:
    """The findings for *config*. *tensors* is a `FakeTensorMode`, or nothing to run on real tensors.

    Two depths of the model are run, and a deeper one is what they are and a multiple of their difference.
    """
    with torch.device("meta"):
        base = _base_model(config, task.masked)
        linears, layers = quantized_linears(base), stack(base)
        deep = depths(layers, config)
        del layers[deep.more :]
        model = _trainable(base, task).train()
        _leave_nothing_to_chance(model)
    more, more_adapters = _all_parts(model, task, tensors), _adapter_parameters(model)
    del layers[deep.few :]
    few, few_adapters = _all_parts(model, task, tensors), _adapter_parameters(model)
    totals = {dtype: _extrapolate(few[dtype], more[dtype], deep) for dtype in task.adapter_dtypes}
    return DryRun(
        activations={dtype: _activations([part.of_a_token for part in parts]) for dtype, parts in totals.items()},
        fixed={dtype: _activations([part.fixed for part in parts]) for dtype, parts in totals.items()},
        adapter_parameters=round(deep.extrapolate(few_adapters, more_adapters)),
        quantized_parameters=sum(linears),
        largest_linear_parameters=max(linears, default=0),
    )


def _base_model(config: PreTrainedConfig, masked: bool) -> PreTrainedModel:
    AttentionInterface.register(UNMASKED, sdpa_attention_forward)
    AttentionInterface.register(MASKED, sdpa_attention_forward)
    AttentionMaskInterface.register(UNMASKED, lambda *args, **kwargs: None)
    AttentionMaskInterface.register(MASKED, _mask)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, trust_remote_code=False)
    if model.config._attn_implementation == "sdpa":  # else eager, which some architectures need, as in real training
        model.config._attn_implementation = MASKED if masked else UNMASKED
    return model


def _mask(batch_size: int, q_length: int, kv_length: int, **kwargs: Any) -> torch.Tensor:
    return torch.ones(batch_size, 1, q_length, kv_length, dtype=torch.bool)


def _trainable(base: PreTrainedModel, task: DryRunTask) -> Trainable:
    """*base* under its adapter, or where all weights are trained as it is."""
    return (
        base
        if KINDS[task.adapter].is_full
        else get_peft_model(base, _adapter(task, base), autocast_adapter_dtype=False)
    )


def _adapter(task: DryRunTask, model: PreTrainedModel) -> PeftConfig:
    # Nothing that begins with the base's weights can be worked out without them, and it has LoRA's shapes.
    fields = task.fields | ({"init_lora_weights": True} if "init_lora_weights" in task.fields else {})
    return peft_config(task.adapter, fields, model)


def _leave_nothing_to_chance(model: Trainable) -> None:
    """LoHa and LoKr look in training whether a module is to be dropped, and fake tensors have no values to look at."""
    for module in model.modules():
        if isinstance(module, LycorisLayer):
            module.training = False


def _all_parts(model: Trainable, task: DryRunTask, tensors: AbstractContextManager[Any]) -> dict[Precision, Parts]:
    return {dtype: _parts(model, dtype, _prime(task.tokens), tensors) for dtype in task.adapter_dtypes}


def _parts(model: Trainable, dtype: Precision, tokens: int, tensors: AbstractContextManager[Any]) -> Parts:
    with tensors:
        _fill(model, DTYPES[dtype])
        saved, peak = _step(model, tokens)
        # The recomputation happens in the backward pass, where nothing else would bring GpuKernels.
        recompute = {"use_reentrant": False, "context_fn": lambda: (nullcontext(), GpuKernels())}
        model.gradient_checkpointing_enable(recompute)  # and inputs that require a gradient, as in real training
        boundary, checkpointed_peak = _step(model, tokens)
        model.gradient_checkpointing_disable()
        model.disable_input_require_grads()
    transient = _less(peak, saved)
    return Parts(saved, boundary, _less(_less(checkpointed_peak, boundary), transient), transient)


def _fill(model: nn.Module, adapter_dtype: torch.dtype) -> None:
    """Give every parameter and buffer a tensor of the kind that is made here, and adapters a gradient to add to."""
    for module in model.modules():
        for name, old in module.named_parameters(recurse=False):
            dtype = adapter_dtype if old.requires_grad else old.dtype
            new = nn.Parameter(torch.zeros(old.shape, dtype=dtype, device="cpu"), requires_grad=old.requires_grad)
            new.grad = torch.zeros_like(new) if new.requires_grad else None
            module._parameters[name] = new
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = torch.zeros(buffer.shape, dtype=buffer.dtype, device="cpu")


def _step(model: Trainable, tokens: int) -> tuple[Bytes, Bytes]:
    """What is kept between forward and backward of one row, and the most that lives at a time."""
    with LiveBytes(tokens) as live:
        with torch.autocast("cpu", torch.bfloat16), GpuKernels():
            whole = model.get_base_model() if isinstance(model, PeftModel) else model
            backbone = whole.base_model
            row = torch.zeros(1, tokens, dtype=torch.long)
            hidden = backbone(input_ids=row, use_cache=False).last_hidden_state
            loss = _Head.apply(hidden)  # type: ignore[no-untyped-call]
            del hidden
        kept = live.live
        torch.autograd.backward(loss)
    return kept, live.peak


class _Head(torch.autograd.Function):
    """In the place of the loss head: keeps nothing, gives a gradient back."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor) -> torch.Tensor:
        ctx.shape, ctx.dtype = hidden.shape, hidden.dtype
        return hidden.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return grads[0].new_zeros(ctx.shape, dtype=ctx.dtype)


def _prime(tokens: int) -> int:
    """The largest prime number up to *tokens*."""
    return next(n for n in range(tokens, 1, -1) if all(n % d for d in range(2, int(n**0.5) + 1)))


def _less(one: Bytes, other: Bytes) -> Bytes:
    return Bytes(max(0.0, one.of_a_token - other.of_a_token), max(0.0, one.fixed - other.fixed))


def _extrapolate(few: Parts, more: Parts, deep: Depths) -> Parts:
    pairs = [zip(a, b, strict=True) for a, b in zip(few, more, strict=True)]
    return Parts(*(Bytes(*(deep.extrapolate(x, y) for x, y in pair)) for pair in pairs))


def _activations(parts: list[float]) -> Activations:
    saved, boundary, layer, transient = parts
    return Activations(saved=saved, boundary=boundary, layer=layer, transient=transient, source="dry run")


def _adapter_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def main() -> None:
    task, out = read_record(Path(sys.argv[1]), DryRunTask), Path(sys.argv[2])
    run_child(lambda: write_json(out / "activations.json", dry_run(task)), out / "error.json")


if __name__ == "__main__":
    main()
