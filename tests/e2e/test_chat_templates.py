"""A base model without a chat template learns conversations, by default and with the template that is asked for."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.job import run, start
from tests.e2e.test_refusals import assert_refused
from tests.tiny import write_base_model, write_talks

pytestmark = pytest.mark.slow


@pytest.fixture
def base_env(env: dict[str, str], tiny_model: Path, rows: Path, tmp_path: Path) -> dict[str, str]:
    """The job of `env` on a base model, whose tokenizer has no chat template and not the tokens of ChatML, and on
    conversations."""
    data = {"JOB_DATASET_URI": str(write_talks(tmp_path / "talks.jsonl", rows)), "JOB_COLUMNS": ""}
    model = write_base_model(tmp_path / "base", tiny_model)
    return env | data | {"JOB_MODEL": str(model), "JOB_MAX_LENGTH": "512"}


LOAD = """
import json, sys
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base_id, adapter_id = sys.argv[1:]
base = AutoModelForCausalLM.from_pretrained(base_id)
tokenizer = AutoTokenizer.from_pretrained(adapter_id)
rows = base.get_input_embeddings().weight.shape[0]
base.resize_token_embeddings(len(tokenizer))
model = PeftModel.from_pretrained(base, adapter_id)
text = tokenizer.apply_chat_template([{"role": "user", "content": "1 plus 2?"}], tokenize=False,
                                     add_generation_prompt=True)
print(json.dumps({"text": text, "end": tokenizer.eos_token, "new": len(tokenizer) - rows,
                  "vocabulary": model(tokenizer(text, return_tensors="pt").input_ids).logits.shape[-1] - rows}))
"""


def loaded(env: dict[str, str]) -> dict[str, Any]:
    """What the published adapter and its tokenizer are like."""
    command = [sys.executable, "-c", LOAD, env["JOB_MODEL"], f"{env['JOB_OUTPUT_URI']}/adapter"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def published(env: dict[str, str], name: str) -> str:
    return (Path(env["JOB_OUTPUT_URI"]) / name).read_text()


@pytest.mark.thorough
def test_conversations_train_a_base_model_with_the_default_template(base_env):
    ended = run(base_env)

    assert ended.code == 0, ended.shown
    said = "plain (the default, as the tokenizer has none)"
    assert f"chat template: {said}" in ended.shown
    assert json.loads(published(base_env, "dataset_report.json"))["chat_template"] == said
    assert json.loads(published(base_env, "metrics.json"))["tokenizer"]["chat_template"] == said
    assert "resize_token_embeddings" not in published(base_env, "adapter/README.md")
    assert loaded(base_env) == {
        "text": "<|turn_start|>### User:\n1 plus 2?\n\n### Assistant:\n", "end": "<|turn_end|>", "new": 0,
        "vocabulary": 0,
    }  # fmt: skip


def test_chatml_brings_its_tokens_and_the_card_says_how_to_load_them(base_env):
    env = base_env | {"JOB_CHAT_TEMPLATE": "chatml", "JOB_NUM_PROCESSES": "2"}

    ended = run(env)

    assert ended.code == 0, ended.shown
    metrics = json.loads(published(env, "metrics.json"))
    assert metrics["tokenizer"]["chat_template"] == "chatml (JOB_CHAT_TEMPLATE)"
    assert metrics["tokenizer"]["added_tokens"]["tokens"] == ["<|im_start|>", "<|im_end|>"]
    rows = metrics["tokenizer"]["added_tokens"]["resized_to"]
    assert metrics["proof"]["changed_tensors"] == metrics["proof"]["tensors"]
    card = published(env, "adapter/README.md")
    assert f"base.resize_token_embeddings({rows})" in card
    assert "base.generation_config.eos_token_id = tokenizer.eos_token_id" in card
    text = "<|turn_start|><|im_start|>user\n1 plus 2?<|im_end|>\n<|im_start|>assistant\n"
    assert loaded(env) == {"text": text, "end": "<|im_end|>", "new": 2, "vocabulary": 2}


def test_a_template_that_cannot_be_had_ends_the_job_before_it_begins(env, tmp_path):
    (tmp_path / "broken.jinja").write_text("{% for m in messages %}")

    assert_refused(run(env | {"JOB_CHAT_TEMPLATE": "chatlm"}), 78, "JOB_CHAT_TEMPLATE=chatlm", "chatml and plain")
    assert_refused(run(env | {"JOB_CHAT_TEMPLATE": "./no.jinja"}), 66, "JOB_CHAT_TEMPLATE=./no.jinja")
    assert_refused(run(env | {"JOB_CHAT_TEMPLATE": f"{tmp_path}/broken.jinja"}), 78, "not valid Jinja (line 1")
    assert not (tmp_path / "output").exists()


def test_a_preview_names_the_template(base_env):
    process = start(base_env | {"JOB_CHAT_TEMPLATE": "chatml"}, "preview", "1")
    out, err = process.communicate(timeout=60)

    assert process.returncode == 0, err
    assert "messages (columns 'messages'); chat template: chatml (JOB_CHAT_TEMPLATE);" in out
    assert "<|im_start|>assistant\n⟦" in out
    assert "<|im_end|>⟧" in out
