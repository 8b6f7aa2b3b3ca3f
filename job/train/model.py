"""The base model as the plan wants it: dtype, quantization, and the dtype of the adapter on top."""

from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PreTrainedModel,
    set_seed,
)

from job.records import Plan, Precision, StartingAdapter, TrainTask

DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


SCORE = "score"  # transformers' name for the head of a model that scores


def load_base(
    plan: Plan,
    task: TrainTask,
    device: torch.device,
    scores_from: int | None = None,
    device_map: str | dict[str, torch.device] | None = None,
    dtype: Precision | None = None,
) -> PreTrainedModel:
    """The model at ``task.model_path``; its weights in *dtype*, without one in the plan's precision, or quantized on
    *device*. With a seed in *scores_from* one number is its output, by a head that begins at random. *device_map*:
    where its parts go, of which one process has all.

    Under ZeRO-3 the training arguments must exist before: transformers looks there whether to share the weights while
    it loads them, and loads all of them on every rank otherwise.
    """
    settings: dict[str, Any] = {}
    if plan.quantization != "none":
        # What is trained whole must not be quantized.
        kept = {} if scores_from is None else {"llm_int8_skip_modules": [SCORE]}
        settings["quantization_config"] = quantization_config(plan, **kept)
        if plan.strategy != "zero3":  # which allows none, and takes the current device
            # Never "auto", which would split the model over the GPUs of a node instead of running DDP.
            settings["device_map"] = {"": device}
    if device_map is not None:
        settings["device_map"] = device_map
    kind = AutoModelForCausalLM
    if scores_from is not None:
        kind, settings["num_labels"] = AutoModelForSequenceClassification, 1
        set_seed(scores_from)
    model = kind.from_pretrained(
        task.model_path,
        dtype=DTYPES[dtype or plan.precision],
        use_safetensors=True,
        trust_remote_code=False,
        **settings,
    )
    model.config.use_cache = False
    if scores_from is not None:
        _fill_head(model)
    return model


def _fill_head(model: PreTrainedModel) -> None:
    """Under FSDP transformers leaves a head that no file holds without data on all ranks but the first, whose values
    they are given when the model is shared out. What is looked at before, to tell later what training changed, is here.
    """
    head = getattr(model, SCORE)
    if head.weight.is_meta:
        head.to_empty(device="cpu")
        torch.nn.init.zeros_(head.weight)


def merged(model: PreTrainedModel, start: StartingAdapter) -> PreTrainedModel:
    """*model* with the adapter of an earlier run added to its weights."""
    merged: PreTrainedModel = PeftModel.from_pretrained(model, start.path).merge_and_unload()
    return merged


def quantization_config(plan: Plan, **settings: Any) -> BitsAndBytesConfig:
    """How bitsandbytes holds the base of *plan*, which is int8 or nf4."""
    if plan.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, **settings)
    dtype = DTYPES[plan.precision]
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        # FSDP shards floating tensors only: over uint8, the default, every GPU would hold the whole base.
        bnb_4bit_quant_storage=dtype if plan.strategy == "fsdp" else torch.uint8,
        **settings,
    )


def hold_adapter_in(model: nn.Module, dtype: torch.dtype) -> None:
    """The trainable parameters of *model* in *dtype*, whatever upstream chose: PEFT float32 over a 16-bit base, TRL
    bfloat16 over a quantized one, even on a GPU that has only float16 and where its gradients cannot be unscaled."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)
