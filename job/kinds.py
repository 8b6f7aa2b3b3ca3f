"""What a single setting may be: the kinds of values that `JobSpec`'s fields are declared with."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from job.chat_template import BUILT_IN
from job.optimizers import OPTIMIZERS
from job.scores import pattern_fault
from job.upstream import OWNED_TRAINER_ARGS, VARIABLE_FOR_TRAINER_ARG
from job.uri import HubUri, parse_uri

Auto = Literal["auto"]
Scheduler = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
    "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay", "reduce_lr_on_plateau",
]  # fmt: skip
Tracker = Literal["wandb", "tensorboard", "mlflow"]
Weight = Annotated[float, Field(gt=0, le=100)]
Column = Literal[
    "messages", "conversations", "prompt", "completion", "instruction", "input", "output", "text", "chosen", "rejected",
    "label",
]  # fmt: skip

_INITS = ("true", "false", "gaussian", "orthogonal", "pissa", "olora")
# Of PEFT's other ways to begin, what the job does not give it.
_NEEDS_MORE = {
    "eva": "rows before training", "corda": "rows before training", "lora_ga": "gradients before training",
    "loftq": "an unquantized base to quantize anew",
}  # fmt: skip


def _model_uri(text: str) -> str:
    parse_uri(text, "model")
    return text


def _dataset_uri(text: str) -> str:
    parse_uri(text, "dataset")
    return text


def _dataset_uris(uris: tuple[str, ...]) -> tuple[str, ...]:
    for uri in uris:
        parse_uri(uri, "dataset")
    if len(set(uris)) < len(uris):
        raise ValueError("names the same place twice; give it a higher weight in JOB_DATASET_WEIGHTS")
    return uris


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value  # a spec file may name a single place without brackets


def _chat_template(text: str) -> str:
    if text in BUILT_IN:
        return text
    try:
        uri = parse_uri(text, "model")
    except ValueError as error:
        raise ValueError(f"{error}; built in are {' and '.join(BUILT_IN)}") from error
    if isinstance(uri, HubUri) and uri.repo_id.endswith(".jinja"):
        raise ValueError("it would be a repository on the Hub; write ./ before a path")
    return text


def _output_uris(uris: tuple[str, ...]) -> tuple[str, ...]:
    for uri in uris:
        parse_uri(uri, "output")
    if len(set(uris)) < len(uris):
        raise ValueError("names the same place twice")
    return uris


def _optim(name: str) -> str:
    if name != "auto" and name not in OPTIMIZERS:
        raise ValueError(f"it is not one of {', '.join(['auto', *OPTIMIZERS])}; others need packages that are not here")
    return name


def _trainer_args(args: dict[str, Any]) -> dict[str, Any]:
    for name in args:
        if name in VARIABLE_FOR_TRAINER_ARG:
            raise ValueError(f"{name!r} has a variable of its own; set {VARIABLE_FOR_TRAINER_ARG[name]}")
        if name in OWNED_TRAINER_ARGS:
            raise ValueError(f"{name!r} is set by the job itself and cannot be passed through")
    return args


def _method(name: Any) -> Any:
    if name == "ppo":
        raise ValueError(
            "TRL has no PPO trainer any more; train a reward model with JOB_METHOD=reward, then the model with "
            "JOB_METHOD=rloo and that JOB_REWARD_MODEL (docs/methods.md shows both steps)"
        )
    return name


MethodName = Annotated[Literal["sft", "dpo", "kto", "reward", "rloo", "grpo"], BeforeValidator(_method)]


def _as_written(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value  # a spec file may hold true without quotes


def _init_lora_weights(text: str) -> str:
    if text in _NEEDS_MORE:
        raise ValueError(f"{text!r} needs {_NEEDS_MORE[text]}; pissa and olora need nothing")
    if text not in _INITS and not re.fullmatch(r"pissa_niter_[1-9]\d?", text):
        raise ValueError(f"expected {', '.join(_INITS)} or pissa_niter_ and a number such as 16")
    return text


def _pattern(text: str) -> str:
    if fault := pattern_fault(text):
        raise ValueError(f"not a regular expression: {fault}")
    return text


ModelUri = Annotated[str, AfterValidator(_model_uri)]
DatasetUri = Annotated[str, AfterValidator(_dataset_uri)]
LossTypes = Annotated[tuple[str, ...], BeforeValidator(_one_or_more)]
DatasetUris = Annotated[tuple[str, ...], BeforeValidator(_one_or_more), AfterValidator(_dataset_uris)]
OutputUris = Annotated[tuple[str, ...], AfterValidator(_output_uris)]
ChatTemplate = Annotated[str, AfterValidator(_chat_template)]
JsonObject = dict[str, Any]
Pattern = Annotated[str, AfterValidator(_pattern)]
Optim = Annotated[str, AfterValidator(_optim)]
InitLoraWeights = Annotated[str, BeforeValidator(_as_written), AfterValidator(_init_lora_weights)]
PeftArgs = dict[str, Any]  # which fields there are depends on the adapter (job/peft_args.py)
TrainerArgs = Annotated[dict[str, Any], AfterValidator(_trainer_args)]
