"""Greedy answers to prompts, in batches that change none of them."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

# Tokens of a batch, answers included: 2 GiB of keys and values for a model of 8B parameters (131 kB a token).
BATCH_TOKENS = 16_384

Prompt = Sequence[int]


def generate(
    model: PeftModel | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    answered: Callable[[int], None] = lambda _: None,
) -> list[str]:
    """The answer of *model* to each of *prompts*, given as token ids, without special tokens. *answered* hears after
    each batch how many are done.

    Prompts of like length share a batch, padded at their beginnings. In float32 the answers are those that the model
    gives to each prompt alone; in 16 bits a tie of two tokens may be rounded to the other side.

    Raises:
        torch.OutOfMemoryError: not even one prompt fits.
    """
    answers: dict[int, str] = {}
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), _plainly(_plain(model), tokenizer):
            for batch in _batches(prompts, max_new_tokens, mixed=not _is_prompt_learning(model)):
                texts = _answer(model, tokenizer, [prompts[index] for index in batch], max_new_tokens)
                answers.update(zip(batch, texts, strict=True))
                answered(len(answers))
    finally:
        model.train(was_training)
    return [answers[index] for index in range(len(prompts))]


def _plain(model: PeftModel | PreTrainedModel) -> PreTrainedModel:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _is_prompt_learning(model: PeftModel | PreTrainedModel) -> bool:
    return isinstance(model, PeftModel) and bool(model.active_peft_config.is_prompt_learning)


def _batches(prompts: Sequence[Prompt], max_new_tokens: int, *, mixed: bool) -> Iterator[list[int]]:
    """Indices of *prompts*, the longest first, so that memory that is too small shows at once. Not *mixed*: a batch
    holds prompts of one length. Virtual tokens come before the padding, and PEFT (0.21,
    ``prepare_inputs_for_generation``) does not tell the model that a prompt begins right behind them."""
    batch: list[int] = []
    for index in sorted(range(len(prompts)), key=lambda index: -len(prompts[index])):
        longest = len(prompts[batch[0]]) if batch else 0
        is_full = (len(batch) + 1) * (longest + max_new_tokens) > BATCH_TOKENS
        if batch and (is_full or not (mixed or len(prompts[index]) == longest)):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _answer(
    model: PeftModel | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
) -> list[str]:
    try:
        return _answer_at_once(model, tokenizer, prompts, max_new_tokens)
    except torch.OutOfMemoryError:
        if len(prompts) == 1:
            raise
    torch.cuda.empty_cache()  # outside the except block, whose traceback holds the tensors
    half = len(prompts) // 2
    return [
        answer
        for part in (prompts[:half], prompts[half:])
        for answer in _answer(model, tokenizer, part, max_new_tokens)
    ]


def _answer_at_once(
    model: PeftModel | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
) -> list[str]:
    config, device = _plain(model).generation_config, _plain(model).device
    longest = max(map(len, prompts))
    ids = [[config.pad_token_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    generated = model.generate(
        input_ids=torch.tensor(ids, device=device),
        attention_mask=torch.tensor(mask, device=device),
        max_new_tokens=max_new_tokens,
    )
    ends = set(config.eos_token_id or ())
    return [_text(row[longest:], ends, tokenizer) for row in generated.tolist()]


def _text(ids: list[int], ends: set[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """What was written before an end token."""
    end = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    return str(tokenizer.decode(ids[:end], skip_special_tokens=True))


@contextlib.contextmanager
def _plainly(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Greedy and nothing else, whatever the model's ``generation_config.json`` says: a penalty on repetition, say,
    would count the padding. An answer ends at the model's own end tokens and at the tokenizer's, which a chat template
    may have brought."""
    before: Any = model.generation_config
    own = before.eos_token_id
    ends = {*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id} - {None}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends, default=0)
    model.generation_config = GenerationConfig(
        do_sample=False, use_cache=True, eos_token_id=sorted(ends) or None, pad_token_id=pad
    )
    try:
        yield
    finally:
        model.generation_config = before
