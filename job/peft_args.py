"""What ``JOB_PEFT_ARGS`` may hold. Pure: names and kinds of values are PEFT's own (`job.peft_fields`), without PEFT."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from job.adapters import KINDS, have
from job.peft_fields import PEFT_FIELDS

# Fields that have a variable of their own, where the adapter has that variable.
_VARIABLES = {
    "r": "lora_r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "use_rslora": "use_rslora",
    "use_dora": "use_dora", "init_lora_weights": "init_lora_weights", "num_virtual_tokens": "num_virtual_tokens",
    "target_modules": "target_modules", "modules_to_save": "modules_to_save",
}  # fmt: skip
# Fields that the job sets itself because its promises rest on them: what model it is for, and how it is read again.
_OWNED = frozenset(
    {
        "task_type", "peft_type", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
        "auto_mapping", "fan_in_fan_out", "trainable_token_indices", "save_projection", "tokenizer_name_or_path",
        "token_dim", "num_layers", "num_attention_heads", "num_transformer_submodules",
    }
)  # fmt: skip
_NEEDS_ROWS = "it looks at rows or gradients before training, which the job does not do"
# Fields that the job cannot keep its promises with.
_REFUSED = {
    "bias": "without the adapter the model would no longer be the base",
    "prefix_projection": "its checkpoints hold the projected prefix alone, from which no run can go on",
    "encoder_hidden_size": "it is for prefix_projection, from whose checkpoints no run can go on",
    "layer_replication": "the published adapter would need another model than the base",
    "target_parameters": "PEFT holds such tensors merged with their adapters, whose memory nobody has worked out",
    "megatron_config": "the job does not train with Megatron",
    "megatron_core": "the job does not train with Megatron",
    **dict.fromkeys(("eva_config", "corda_config", "lora_ga_config", "loftq_config"), _NEEDS_ROWS),
}
_KINDS: dict[str, tuple[type, ...]] = {
    "bool": (bool,), "int": (int,), "float": (int, float), "str": (str,), "dict": (dict,),
}  # fmt: skip

_WORDS = {
    "bool": "true or false", "int": "a whole number", "float": "a number", "str": "a text", "dict": "an object",
}  # fmt: skip


def problems_of(adapter: str, args: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with *args* for *adapter*, a sentence each without its full stop."""
    kind = KINDS[adapter]
    if kind.is_full:
        if args:
            yield f"JOB_PEFT_ARGS is for adapters, and JOB_ADAPTER={adapter} trains the model itself; leave it unset"
        return
    fields = PEFT_FIELDS[kind.config]
    for name, value in args.items():
        setting = _VARIABLES.get(name, "")
        if name not in fields:
            yield f"JOB_PEFT_ARGS: {name!r} is not a field of PEFT's {kind.config}{_suggestion(name, fields)}"
        elif setting in kind.settings:
            yield f"JOB_PEFT_ARGS: {name!r} has a variable of its own; set JOB_{setting.upper()}"
        elif setting and name not in kind.fields:
            yield f"JOB_PEFT_ARGS: {name!r} is for JOB_ADAPTER={' or '.join(have(setting))}; leave it out"
        elif name in _OWNED:
            yield f"JOB_PEFT_ARGS: {name!r} is set by the job itself and cannot be passed through; leave it out"
        elif name in _REFUSED:
            yield f"JOB_PEFT_ARGS: {name!r} is not supported: {_REFUSED[name]}; leave it out"
        elif value is not None and not _is(fields[name], value):
            yield f"JOB_PEFT_ARGS: {name!r} is {value!r}, where PEFT takes {_WORDS[fields[name]]}"


def _suggestion(name: str, fields: Mapping[str, str]) -> str:
    free = [field for field in fields if field not in _OWNED and field not in _REFUSED]
    close = difflib.get_close_matches(name, free, n=1)
    return f"; {close[0]!r} may be meant" if close else f"; it has {', '.join(free)}"


def _is(plain: str, value: Any) -> bool:
    """Whether *value* may be the field's; one that takes more than a plain value is PEFT's to judge."""
    if plain in ("int", "float") and isinstance(value, bool):
        return False
    return not plain or isinstance(value, _KINDS[plain])
