"""Answers: the same in a batch as alone, whatever the model's own settings, and the base's without the adapter."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, set_seed

from job.adapters import peft_fields
from job.environment import load_spec
from job.evaluate import generate as generating
from job.evaluate.generate import generate
from job.evaluate.load import Tuned
from job.train.adapters import peft_config
from tests.tiny import write_model, write_rows

NEW = 12
TEXTS = ["What is 1 plus 2?", "7", "What is 12 plus 30 plus 4 plus 99 plus 7?", "What is 5 plus 7?", "is 1 plus"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("generate")
    return write_model(home / "model", write_rows(home / "rows.jsonl", 64))


@pytest.fixture
def base(folder: Path) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.config.use_cache = False  # as in training
    return model


def tuned(base: PreTrainedModel, adapter: str, **settings: str) -> PeftModel:
    """*base* with an adapter that has learned something."""
    asked = {"JOB_MODEL": "a/b", "JOB_DATASET_URI": "a/b", "JOB_OUTPUT_URI": "/o", "JOB_ADAPTER": adapter}
    spec = load_spec(asked | settings)
    set_seed(1)
    model = get_peft_model(base, peft_config(adapter, peft_fields(spec), base))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def prompts(folder: Path) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [tokenizer(text).input_ids for text in TEXTS]


@pytest.mark.parametrize("adapter", ["lora", "ia3", "prefix", "prompt"])
def test_a_batch_of_uneven_prompts_is_answered_as_each_alone_and_the_base_as_without_an_adapter(folder, base, adapter):
    tokenizer, asked = AutoTokenizer.from_pretrained(folder), prompts(folder)
    plain = generate(base, tokenizer, asked, NEW)
    model = tuned(base, adapter)
    model.train()

    together = generate(model, tokenizer, asked, NEW)

    assert together == [generate(model, tokenizer, [one], NEW)[0] for one in asked]
    with Tuned(model).base() as below:
        assert generate(below, tokenizer, asked, NEW) == plain
    assert together != plain
    assert model.training


def test_every_token_is_the_likeliest_after_the_ones_before(folder, base):
    tokenizer, (first, *_) = AutoTokenizer.from_pretrained(folder), prompts(folder)
    model = tuned(base, "prefix").eval()
    ids = list(first)
    with torch.no_grad():
        for _ in range(NEW):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))

    ends = [place for place, token in enumerate(ids) if token == tokenizer.eos_token_id and place >= len(first)]
    text = tokenizer.decode(ids[len(first) : ends[0] if ends else len(ids)], skip_special_tokens=True)
    assert generate(model, tokenizer, [first], NEW) == [text]


def test_what_the_model_would_do_by_its_own_settings_is_left_aside(folder, base):
    tokenizer, asked = AutoTokenizer.from_pretrained(folder), prompts(folder)
    plain = generate(base, tokenizer, asked, NEW)
    own = GenerationConfig(
        do_sample=True, temperature=9.0, repetition_penalty=2.0, no_repeat_ngram_size=1, max_length=3
    )
    base.generation_config = own

    assert generate(base, tokenizer, asked, NEW) == plain
    assert base.generation_config is own


def test_an_answer_ends_at_an_end_token_of_the_model_or_of_the_tokenizer(folder, base):
    tokenizer, asked = AutoTokenizer.from_pretrained(folder), prompts(folder)
    whole = base.generate(
        input_ids=torch.tensor([asked[0]]), attention_mask=torch.ones(1, len(asked[0]), dtype=torch.long),
        max_new_tokens=NEW, do_sample=False, eos_token_id=None,
    )[0, len(asked[0]) :].tolist()  # fmt: skip
    base.generation_config.eos_token_id = [tokenizer.eos_token_id, whole[4]]

    (answer,) = generate(base, tokenizer, asked[:1], NEW)

    assert answer == tokenizer.decode(whole[: whole.index(whole[4])], skip_special_tokens=True)


def test_memory_that_does_not_suffice_for_a_batch_is_shared_out(folder, base, monkeypatch):
    tokenizer, asked = AutoTokenizer.from_pretrained(folder), prompts(folder)
    plain, at_once = generate(base, tokenizer, asked, NEW), generating._answer_at_once
    sizes = []

    def short_of_memory(model, tokenizer, prompts, max_new_tokens):
        sizes.append(len(prompts))
        if len(prompts) > 1:
            raise torch.OutOfMemoryError
        return at_once(model, tokenizer, prompts, max_new_tokens)

    monkeypatch.setattr(generating, "_answer_at_once", short_of_memory)

    assert generate(base, tokenizer, asked, NEW) == plain
    assert sizes[0] == len(asked)
