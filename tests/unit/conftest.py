"""A tokenizer folder made on the spot, without torch; outputs of each kind, and attempts at them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from job.attempts import Attempt, claim
from job.attempts.folder import PROMPT, Rhythm
from job.output import Output
from job.records import Progress
from job.spec import JobSpec
from tests.unit.attempts import World, spec_for, still

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


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A file for a store."""
    path = tmp_path / "small.json"
    path.write_bytes(b'{"r": 16}')
    return path


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "out")


@pytest.fixture(params=["folder", "s3", "hub"])
def place(request: pytest.FixtureRequest, folder: str) -> str:
    """An empty output of each kind."""
    if request.param == "s3":
        request.getfixturevalue("s3_server")
        return "s3://bucket/out"
    if request.param == "hub":
        request.getfixturevalue("hub_server").add("org/tuned", {})
        return "hf://org/tuned"
    return folder


@pytest.fixture
def take() -> Iterator[Callable[..., Attempt]]:
    """Claims a place; the hearts of what was claimed stop when the test ends."""
    attempts: list[Attempt] = []

    def take(place: str, spec: JobSpec | None = None, world: World | None = None, rhythm: Rhythm = PROMPT) -> Attempt:
        spec, world = spec or spec_for(place), world or World()
        output = Output(place)
        attempts.append(claim(output, spec, lambda: Progress(phase="train", step=7), 2, world.watch, rhythm))
        output.mark(spec)
        return attempts[-1]

    yield take
    for attempt in attempts:
        still(attempt)
