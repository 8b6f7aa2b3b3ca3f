"""A tokenizer and a Llama small enough to be made on the spot, for the demo and for the benchmarks."""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

TURN_START, TURN_END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"

# ChatML without {% generation %} markers, as most published templates are.
CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that knows the words of *texts* and can spell anything else."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=TURN_START,
        eos_token=TURN_END,
        pad_token=PAD,
        padding_side="right",
        model_max_length=max_length,
        chat_template=CHAT_TEMPLATE,
    )


def random_llama(tokenizer: PreTrainedTokenizerFast, hidden_size: int, seed: int) -> LlamaForCausalLM:
    """A two-layer Llama with random weights, the same for the same seed."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        **token_ids(tokenizer),
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**token_ids(tokenizer))
    return model


def token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """The special tokens that a model's configuration repeats."""
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out_dir: Path) -> None:
    """Write a folder that ``from_pretrained`` loads: safetensors, config.json, tokenizer.json, chat_template.jinja."""
    disable_progress_bar()
    model.save_pretrained(out_dir)
    (out_dir / "model.safetensors").chmod(0o644)  # written 0600, which a container's own user could not read
    tokenizer.save_pretrained(out_dir)
    print(f"{out_dir}: {model.num_parameters():,} parameters, {len(tokenizer):,} tokens")
