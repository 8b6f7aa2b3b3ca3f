"""Small tokenizers of the kinds that published models have, made on the spot."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.worker.templates import FOLDER, TOKEN

# What most published templates look like, with the tokens that every kind below has.
CHATML = (
    "{%- for m in messages %}{{- '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
# The same with marks, as TRL needs them for a template that it does not know.
MARKED = (
    "{%- for m in messages %}{%- if m['role'] == 'assistant' %}{{- '<|im_start|>assistant\n' }}{%- generation %}"
    "{{- m['content'] + '<|im_end|>' }}{%- endgeneration %}{{- '\n' }}{%- else %}"
    "{{- '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
_SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
_GPT4_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"


@cache
def _trained(flavour: str) -> str:
    """A vocabulary of a thousand pieces: bytes (GPT-2), ▁ for spaces with bytes to fall back on (Llama 2), unigrams."""
    texts = [(FOLDER / "README.md").read_text()]
    if flavour == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=1000, initial_alphabet=alphabet, special_tokens=_SPECIAL, show_progress=False
        )
    else:
        byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)] if flavour == "pieces" else []
        unigram = flavour == "unigrams"
        tokenizer = Tokenizer(models.Unigram() if unigram else models.BPE(unk_token="<unk>", byte_fallback=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        make = trainers.UnigramTrainer if unigram else trainers.BpeTrainer
        options = {"unk_token": "<unk>"} if unigram else {}
        trainer = make(vocab_size=1000, special_tokens=_SPECIAL + byte_pieces, show_progress=False, **options)
    tokenizer.train_from_iterator(texts, trainer)
    return str(tokenizer.to_str())


def _gpt2() -> Tokenizer:
    return Tokenizer.from_str(_trained("bytes"))


def _llama3() -> Tokenizer:
    """Bytes behind a regular expression, and a first token from the post-processor."""
    tokenizer = _gpt2()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_regex(_GPT4_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), _begins_with("<s>")])
    return tokenizer


def _regex(pattern: str) -> Any:
    from tokenizers import Regex

    return Regex(pattern)


def _begins_with(token: str, ends: str = "") -> processors.TemplateProcessing:
    ids = [(text, _gpt2().token_to_id(text)) for text in (token, ends) if text]
    return processors.TemplateProcessing(f"{token} $A {ends}".strip(), f"{token} $A {token} $B", ids)


def _roberta() -> Tokenizer:
    """Bytes with a space put before the text, and both ends from the post-processor."""
    tokenizer = _gpt2()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.post_processor = _begins_with("<s>", ends="</s>")
    return tokenizer


def _qwen() -> Tokenizer:
    """Bytes of normalized text."""
    tokenizer = _llama3()
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _llama2(scheme: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(_trained("pieces"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.post_processor = _begins_with("<s>")
    return tokenizer


def _llama2_legacy() -> Tokenizer:
    """As conversions of before 2024 have it: the ▁ comes from the normalizer, so after every special token too."""
    tokenizer = _llama2("first")
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


def _phi3() -> Tokenizer:
    """Tokens that swallow the white space after them."""
    tokenizer = _llama2_legacy()
    tokenizer.add_special_tokens([AddedToken(text, rstrip=True, normalized=False) for text in _SPECIAL[2:]])
    return tokenizer


def _gemma() -> Tokenizer:
    """▁ for spaces by the normalizer, none put before; tokens for line breaks."""
    tokenizer = _llama2_legacy()
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.add_tokens([AddedToken("\n" * count, normalized=False) for count in range(1, 5)])
    return tokenizer


def _neox() -> Tokenizer:
    """Tokens for runs of spaces, looked for in the normalized text."""
    tokenizer = _qwen()
    tokenizer.add_tokens([AddedToken(" " * count, normalized=True) for count in range(24, 1, -1)])
    return tokenizer


def _flags() -> Tokenizer:
    """Added tokens with every flag: swallowing white space on the left, whole words only, after normalization."""
    tokenizer = _llama3()
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.add_tokens(
        [
            AddedToken("answer", single_word=True),
            AddedToken("YES", normalized=True),
            AddedToken("No", normalized=False),
            AddedToken("<tool>", lstrip=True, rstrip=True),
            AddedToken("é", single_word=True, normalized=True),
        ]
    )
    return tokenizer


def _t5() -> Tokenizer:
    tokenizer = Tokenizer.from_str(_trained("unigrams"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    return tokenizer


def _cut() -> Tokenizer:
    """Its file says to cut and to pad, which a run must not."""
    tokenizer = _llama3()
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=16)
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": _gpt2,
    "llama3": _llama3,
    "roberta": _roberta,
    "qwen": _qwen,
    "llama2 first": lambda: _llama2("first"),
    "llama2 always": lambda: _llama2("always"),
    "llama2 never": lambda: _llama2("never"),
    "llama2 legacy": _llama2_legacy,
    "phi3": _phi3,
    "gemma": _gemma,
    "neox": _neox,
    "flags": _flags,
    "t5": _t5,
    "cut": _cut,
}


def write_kind(folder: Path, kind: str, chat_template: str | None = MARKED, **settings: Any) -> Path:
    """The tokenizer of that *kind* in *folder*."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=KINDS[kind](), bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        chat_template=chat_template, **settings,
    )  # fmt: skip
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.save_pretrained(folder)
    return folder


def write_kind_for(folder: Path, kind: str, template: str, **flags: bool) -> Path:
    """The same with one of TRL's templates, and its special tokens with *flags*."""
    source = (FOLDER / f"{template}.jinja").read_text()
    write_kind(folder, kind, source)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokens = [AddedToken(text, special=True, **flags) for text in sorted(set(TOKEN.findall(source)))]
    tokenizer.add_tokens(tokens, special_tokens=True)
    tokenizer.save_pretrained(folder)
    return folder


def write_named(folder: Path) -> Path:
    """Two chat templates by name, as Command R and Hermes have them."""
    write_kind(folder, "gpt2", None)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.chat_template = {"default": CHATML, "tool_use": "Tools: mul. " + CHATML}
    tokenizer.save_pretrained(folder)
    return folder


def write_rebuilt(folder: Path) -> Path:
    """A ``tokenizer.json`` of before 2024 whose configuration names the class, as Llama 2's and its children's: the
    class takes the vocabulary from the file, but makes rules of its own."""
    write_kind(folder, "llama2 legacy", CHATML)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "LlamaTokenizer"}))
    return folder
