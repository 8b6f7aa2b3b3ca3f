"""Tokens that a chat template adds: rows for them in embedding and head, which the adapter trains and carries."""

from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from job.adapters import KINDS
from job.chat_template import adopt
from job.errors import BadSpec
from job.records import AddedTokens, ChatTemplateChoice, Plan
from job.spec import JobSpec


def add_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, choice: ChatTemplateChoice | None
) -> AddedTokens:
    """Give *tokenizer* the template of *choice*, and *model* a row for every token that is new with it."""
    ids = adopt(tokenizer, choice) if choice else []
    if not ids:
        return AddedTokens()
    known = [layer.weight.shape[0] for layer in _layers(model)]
    resized_to = ids[-1] + 1 if ids[-1] >= known[0] else None
    if resized_to:
        model.resize_token_embeddings(resized_to, mean_resizing=False)
    for layer, rows in zip(_layers(model), known, strict=True):
        _start_at_mean(layer, ids, rows)
    return AddedTokens(tokens=tuple(tokenizer.convert_ids_to_tokens(ids)), ids=tuple(ids), resized_to=resized_to)


def trainable_token_indices(
    model: PreTrainedModel, added: AddedTokens, spec: JobSpec, plan: Plan
) -> dict[str, list[int]] | None:
    """PEFT's argument of that name, for embedding and head: of tied ones PEFT trains one set of rows for both.

    Whole trained matrices (``modules_to_save``) would cost gigabytes in optimizer and adapter for a few rows.

    Raises:
        BadSpec: embedding or head are adapted or trained whole too, which PEFT cannot do in both ways; under ZeRO-3,
            where the fused loss would read a head that is elsewhere; or the adapter cannot hold single rows.
    """
    if not added.ids:
        return None
    kind = KINDS[spec.adapter]
    if not kind.is_full and "lora_r" not in kind.settings:
        raise BadSpec(
            f"JOB_ADAPTER={spec.adapter} cannot hold the new tokens {', '.join(added.tokens)} of the chat template.",
            "Set JOB_ADAPTER=lora, or JOB_CHAT_TEMPLATE=plain, which needs no new token.",
        )
    if plan.strategy == "zero3":
        raise BadSpec(
            f"JOB_STRATEGY=zero3 cannot train the new tokens {', '.join(added.tokens)} of the chat template.",
            "Set JOB_STRATEGY=fsdp, or JOB_CHAT_TEMPLATE=plain, which needs no new token.",
        )
    if kind.is_full:
        return None
    layers = _layers(model)
    names = [name for name, module in model.named_modules() if any(module is layer for layer in layers)]
    for setting in ("target_modules", "modules_to_save"):
        targets = getattr(spec, setting)
        if both := [target for target in targets if any(f".{name}".endswith(f".{target}") for name in names)]:
            raise BadSpec(
                f"JOB_{setting.upper()}={','.join(both)} cannot be adapted, as the new tokens "
                f"{', '.join(added.tokens)} are trained in it.",
                "Leave it out, or set JOB_CHAT_TEMPLATE=plain, which needs no new token.",
            )
    return {name: list(added.ids) for name in names}


def show_bias(model: PeftModel | PreTrainedModel) -> None:
    """Let the head show its bias where PEFT has wrapped it, as TRL's fused head reads it and PEFT hides all but the
    weight. It stays out of the parameters, of which the wrapped layer has it already."""
    head: Any = model.get_base_model().get_output_embeddings() if isinstance(model, PeftModel) else None
    if hasattr(head, "token_adapter"):
        vars(head)["bias"] = getattr(head.token_adapter.base_layer, "bias", None)


def _layers(model: PreTrainedModel) -> list[Any]:
    """Embedding and head; a model that scores has no head over the vocabulary."""
    return [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]


def _start_at_mean(layer: Any, ids: list[int], rows: int) -> None:
    """Rows *ids* at the mean of those that the vocabulary had before: spare ones were never trained, and random ones
    of a new token would draw probability to it. A bias gets the mean beyond *rows*, where transformers puts it too."""
    layer.weight.data[ids] = layer.weight.data[: ids[0]].mean(dim=0, dtype=torch.float32).to(layer.weight.dtype)
    if getattr(layer, "bias", None) is not None:
        layer.bias.data[rows:] = layer.bias.data[:rows].mean()
