"""What is to be published, as its users will load it, and the base below it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from transformers import AutoTokenizer, PreTrainedModel

from job.adapters import KINDS
from job.records import EvaluateTask
from job.spec import JobSpec
from job.train.model import DTYPES, hold_adapter_in, load_base, merged
from job.train.vocabulary import add_tokens

_SHARED_OUT = ("fsdp", "zero3")  # the base may fit only into all GPUs together


@dataclass(frozen=True)
class Tuned:
    """The trained model: a base with an adapter on it, or a whole one beside its base."""

    model: PeftModel | PreTrainedModel
    beside: PreTrainedModel | None = None

    @contextlib.contextmanager
    def base(self) -> Iterator[PreTrainedModel]:
        """The model before training. An adapter is off meanwhile; that of virtual tokens stands before the model and
        not in it."""
        if self.beside is not None:
            yield self.beside
        else:
            with self.model.disable_adapter():
                yield self.model.get_base_model()


def device_of(task: EvaluateTask) -> torch.device:
    """Where inputs go."""
    return torch.device("cuda" if task.plan.use_gpu and torch.cuda.is_available() else "cpu")


def load_untouched(spec: JobSpec, task: EvaluateTask) -> PreTrainedModel:
    """The base in training's precision and quantization, with the adapter that was merged into it before, and with rows
    for the tokens that are new."""
    model = _load(spec, task, task.train.model_path)
    if task.train.start and task.train.start.how == "merge":
        model = merged(model, task.train.start)
    tokenizer = AutoTokenizer.from_pretrained(task.train.model_path, trust_remote_code=False)
    add_tokens(model, tokenizer, task.train.chat_template)
    return model.eval()


def load_tuned(spec: JobSpec, base: PreTrainedModel, folder: Path, task: EvaluateTask) -> Tuned:
    """What *folder* holds: an adapter, put on *base* in training's dtype, or a whole model. Of an adapter what has
    another shape on *base* stays out."""
    if KINDS[spec.adapter].is_full:
        return Tuned(_load(spec, task, folder).eval(), beside=base)
    prompt = PeftConfig.from_pretrained(str(folder)).is_prompt_learning  # which PEFT loads frozen only
    model = PeftModel.from_pretrained(base, folder, is_trainable=not prompt, ignore_mismatched_sizes=True)
    if prompt:
        model.prompt_encoder.requires_grad_(True)
    hold_adapter_in(model, DTYPES[task.plan.adapter_dtype])
    return Tuned(model.eval())


def adapter_of(model: PeftModel) -> dict[str, torch.Tensor]:
    """What the file of an adapter like that of *model* holds."""
    tensors: dict[str, torch.Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return tensors


def weights_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What ``save_pretrained`` writes of *model*: of tied tensors one, and no buffer that can be made again."""
    kept = model.state_dict().keys()
    return dict(model.named_parameters()) | {name: one for name, one in model.named_buffers() if name in kept}


def _load(spec: JobSpec, task: EvaluateTask, folder: Path) -> PreTrainedModel:
    plan, device = task.plan, device_of(task)
    place: Any = "auto" if device.type == "cuda" and plan.strategy in _SHARED_OUT else {"": device}
    seed = spec.seed if spec.method == "reward" else None
    train = task.train.model_copy(update={"model_path": folder})
    return load_base(plan, train, device, scores_from=seed, device_map=place)
