"""Modules that settings name are looked for in the headers, before anything big is fetched."""

import pytest

from job.errors import BadSpec
from job.modules import check_modules
from job.records import ModelFacts
from job.spec import JobSpec
from tests.models import golden_facts
from tests.unit.test_parameters import GPT2

LLAMA = "meta-llama/Llama-3.1-8B"


def spec(**settings: object) -> JobSpec:
    return JobSpec(model="org/m", **settings)


def refusal(model: ModelFacts, **settings: object) -> str | None:
    try:
        check_modules(spec(**settings), model)
    except BadSpec as refused:
        return str(refused)
    return None


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": ("q_proj", "self_attn.v_proj", "layers.3.mlp.down_proj")},
        {"target_modules": ("q_proj", "embed_tokens")},
        {"modules_to_save": ("lm_head", "embed_tokens", "norm", "mlp", "input_layernorm")},
        {"adapter": "prompt"},
        {"init_lora_weights": "pissa", "lora_r": 1024},
    ],
)
def test_modules_that_the_model_has_are_taken(settings):
    assert refusal(golden_facts(LLAMA), **settings) is None


def test_a_head_that_is_tied_to_the_embedding_can_be_trained_whole():
    assert refusal(golden_facts("Qwen/Qwen2.5-0.5B"), modules_to_save=("lm_head",)) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"target_modules": ("q_proj", "q_porj")},
            "JOB_TARGET_MODULES=q_proj,q_porj names q_porj, which JOB_MODEL=org/m ",
        ),
        ({"target_modules": ("v_prj",)}, "Did you mean v_proj?"),
        ({"target_modules": ("c_attn",)}, "It has down_proj, embed_tokens, gate_proj"),
        ({"target_modules": ("input_layernorm",)}, "names input_layernorm, which JOB_MODEL=org/m does not have"),
        ({"modules_to_save": ("lm_haed",)}, "JOB_MODULES_TO_SAVE=lm_haed names lm_haed"),
        ({"init_lora_weights": "pissa", "lora_r": 2048}, "JOB_LORA_R=2048 is more than the 1024 directions"),
    ],
)
def test_modules_that_it_has_not_are_refused_with_a_suggestion(settings, message):
    assert message in (refusal(golden_facts(LLAMA), **settings) or "")


def test_names_of_a_mixture_are_left_to_the_worker():
    """transformers makes one tensor of all experts, under another name than in the files."""
    assert refusal(golden_facts("mistralai/Mixtral-8x7B-v0.1"), target_modules=("gate_up_proj",)) is None


@pytest.mark.parametrize("adapter", ["loha", "lokr", "oft"])
def test_an_adapter_that_peft_has_not_for_this_architecture_is_refused(adapter):
    assert f"JOB_ADAPTER={adapter} cannot be put on JOB_MODEL=org/m" in (refusal(GPT2, adapter=adapter) or "")
