"""A tokenizer folder made on the spot, without torch."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}{{ '<s>' + m['role'] + '\n' + m['content'] + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<s>assistant\n' }}{%- generation -%}"
    "{{ m['content'] + '</s>' }}{%- endgeneration -%}{{ '\n' }}{% else %}"
    "{{ '<s>' + m['role'] + '\n' + m['content'] + '</s>\n' }}{% endif %}{% endfor %}"
)

MakeTokenizer = Callable[..., Path]


@pytest.fixture
def make_tokenizer(tmp_path: Path) -> MakeTokenizer:
    """Writes a byte-level tokenizer without merges, one token a byte, and returns its folder."""

    def make(chat_template: str | None = None, eos_token: str | None = "</s>") -> Path:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        bpe = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[]))
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=bpe, bos_token="<s>", eos_token=eos_token, pad_token="<pad>", chat_template=chat_template
        )
        folder = tmp_path / "tokenizer"
        tokenizer.save_pretrained(folder)
        return folder

    return make
