"""Base model and adapter as training had them, from the files that are to be published."""

from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from transformers import AutoTokenizer, PreTrainedModel

from job.records import EvaluateTask
from job.spec import JobSpec
from job.train.model import DTYPES, hold_adapter_in, load_base, merged
from job.train.vocabulary import add_tokens

_SHARED_OUT = ("fsdp", "zero3")  # the base may fit only into all GPUs together


def device_of(task: EvaluateTask) -> torch.device:
    """Where inputs go."""
    return torch.device("cuda" if task.plan.use_gpu and torch.cuda.is_available() else "cpu")


def load_untouched(spec: JobSpec, task: EvaluateTask) -> PreTrainedModel:
    """The base in training's precision and quantization, with the adapter that was merged into it before, and with rows
    for the tokens that are new."""
    plan, device = task.plan, device_of(task)
    place: Any = "auto" if device.type == "cuda" and plan.strategy in _SHARED_OUT else {"": device}
    seed = spec.seed if spec.method == "reward" else None
    model = load_base(plan, task.train, device, scores_from=seed, device_map=place)
    if task.train.start and task.train.start.how == "merge":
        model = merged(model, task.train.start)
    add_tokens(model, AutoTokenizer.from_pretrained(task.train.model_path), task.train.chat_template)
    return model.eval()


def put_on(base: PreTrainedModel, folder: Path, task: EvaluateTask) -> PeftModel:
    """The adapter of *folder* on *base*, in training's dtype. What has another shape there stays out."""
    prompt = PeftConfig.from_pretrained(str(folder)).is_prompt_learning  # which PEFT loads frozen only
    model = PeftModel.from_pretrained(base, folder, is_trainable=not prompt, ignore_mismatched_sizes=True)
    if prompt:
        model.prompt_encoder.requires_grad_(True)
    hold_adapter_in(model, DTYPES[task.plan.adapter_dtype])
    return model.eval()


def expected_tensors(model: PeftModel) -> dict[str, torch.Tensor]:
    """What the file of an adapter like that of *model* holds."""
    tensors: dict[str, torch.Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return tensors
