"""PEFT's configuration of an adapter for the very model it is put on."""

import re
from collections.abc import Sequence
from typing import Any

import peft
from peft import PeftConfig
from transformers import PreTrainedModel

from job.adapters import KINDS, feedforward_modules
from job.train.targets import target_modules


def peft_config(
    adapter: str, fields: dict[str, Any], model: PreTrainedModel, token_rows: dict[str, list[int]] | None = None
) -> PeftConfig:
    """PEFT's configuration of *adapter* with *fields* (`job.adapters.peft_fields`), for *model*. *token_rows* of
    embedding and head are trained with it."""
    own: dict[str, Any] = {}
    if "target_modules" in fields:
        own = {"target_modules": target_modules(model, fields["target_modules"])}
    if adapter == "ia3":
        own |= {"feedforward_modules": _any_of(feedforward_modules(model.config.model_type, fields))}
    if token_rows:
        own |= {"trainable_token_indices": token_rows}
    if fields.get("prompt_tuning_init") == "TEXT":
        own |= {"tokenizer_name_or_path": model.name_or_path}
    config: PeftConfig = getattr(peft, KINDS[adapter].config)(**{"task_type": "CAUSAL_LM"} | fields | own)
    return config


def _any_of(names: Sequence[str]) -> str:
    """As an expression, since PEFT compares names with those that it has made of ``all-linear``."""
    return rf"(.*\.)?({'|'.join(map(re.escape, names))})" if names else ""
