"""Which modules get an adapter, and that the plan counts the same."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from job.adapters import KINDS, peft_fields
from job.parameters import count_parameters
from job.spec import JobSpec
from job.train.adapters import peft_config
from job.train.targets import ALL_LINEAR, target_modules
from tests.models import MODELS, build, golden_facts, model_facts

TINY = {
    "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "vocab_size": 128, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_experts_per_tok": 2, "pad_token_id": 0,
}  # fmt: skip
LLAMA = TINY | {"model_type": "llama"}
MIXTRAL = TINY | {"model_type": "mixtral", "num_local_experts": 4}
QWEN3_MOE = TINY | {"model_type": "qwen3_moe", "head_dim": 16, "num_experts": 4, "moe_intermediate_size": 32}
DEEPSEEK_V3 = TINY | {
    "model_type": "deepseek_v3", "n_routed_experts": 4, "moe_intermediate_size": 32, "first_k_dense_replace": 1,
    "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "q_lora_rank": 32, "kv_lora_rank": 16, "v_head_dim": 16,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
}  # fmt: skip
ATTENTION = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}
MLP = {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}


def adapted(config: dict[str, object], *asked: str) -> PeftModel:
    with torch.device("meta"):
        base = build(config)
        targets = target_modules(base, asked or (ALL_LINEAR,))
        return get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=16, target_modules=targets))


def trainable(model: PeftModel) -> dict[str, int]:
    return {name: weight.numel() for name, weight in model.named_parameters() if weight.requires_grad}


def modules(model: PeftModel) -> set[str]:
    """Names of adapted modules within their layers."""
    return {name.split(".layers.")[1].split(".", 1)[1].split(".lora_")[0] for name in trainable(model)}


def test_of_a_dense_model_every_linear_module_but_the_head_is_adapted():
    assert modules(adapted(LLAMA)) == ATTENTION | MLP


@pytest.mark.parametrize("config", [MIXTRAL, QWEN3_MOE], ids=["mixtral", "qwen3_moe"])
def test_of_a_mixture_attention_alone_is_adapted(config):
    assert modules(adapted(config)) == ATTENTION


def test_of_a_mixture_with_dense_layers_and_shared_experts_attention_alone_is_adapted():
    """The names of its dense MLP are, to PEFT, those of its experts too."""
    latent = {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"}

    assert modules(adapted(DEEPSEEK_V3)) == {f"self_attn.{name}" for name in latent}


@pytest.mark.parametrize("config", [LLAMA, MIXTRAL], ids=["llama", "mixtral"])
def test_modules_asked_for_by_name_are_taken_as_they_are(config):
    assert modules(adapted(config, "q_proj", "v_proj")) == {"self_attn.q_proj", "self_attn.v_proj"}


@pytest.mark.parametrize("name", MODELS)
def test_the_plan_counts_the_adapter_that_peft_makes(name):
    counted = count_parameters(golden_facts(name), "lora", {"r": 16, "target_modules": [ALL_LINEAR]}).adapter

    assert counted == sum(trainable(adapted(MODELS[name][1])).values())


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("down_proj",), ("self_attn.o_proj",)])
def test_the_plan_counts_the_adapter_of_modules_asked_for_by_name(targets):
    name = "Qwen/Qwen2.5-0.5B"
    counted = count_parameters(golden_facts(name), "lora", {"r": 16, "target_modules": list(targets)}).adapter

    assert counted == sum(trainable(adapted(MODELS[name][1], *targets)).values()) > 0


GPT2 = {"model_type": "gpt2", "n_embd": 48, "n_layer": 2, "n_head": 4, "vocab_size": 128}
QWEN3 = TINY | {"model_type": "qwen3", "head_dim": 32}


COUNTED = [
    *((name, {}) for name, kind in KINDS.items() if not kind.is_full),
    ("lora", {"use_dora": True, "lora_r": 4}),
    ("lora", {"modules_to_save": ["lm_head"]}),
    ("ia3", {"modules_to_save": ["wte", "embed_tokens"]}),
    ("loha", {"peft_args": {"r": 3}}),
    ("lokr", {"peft_args": {"r": 2, "decompose_both": True}}),
    ("lokr", {"peft_args": {"r": 2, "decompose_factor": 4}}),
    ("oft", {"peft_args": {"oft_block_size": 24}}),
    ("oft", {"peft_args": {"r": 4}}),
    ("oft", {"peft_args": {"block_share": True}}),
    ("vera", {"peft_args": {"r": 8}}),
    ("prefix", {"num_virtual_tokens": 7}),
]
NOT_FOR_CONV1D = ("loha", "lokr", "oft")


@pytest.mark.parametrize(
    ("adapter", "settings", "config"),
    [
        pytest.param(*one, config, id=f"{name}-{number}-{one[0]}")
        for name, config in (("llama", LLAMA), ("qwen3", QWEN3), ("gpt2", GPT2))
        for number, one in enumerate(COUNTED)
        if not (config is GPT2 and one[0] in NOT_FOR_CONV1D)
    ],
)
def test_the_plan_counts_every_adapter_as_peft_makes_it(adapter, settings, config):
    spec = JobSpec(model="org/m", adapter=adapter, **settings)
    base = build(config)
    with torch.device("meta"):
        model = get_peft_model(base, peft_config(adapter, peft_fields(spec), base))

    counted = count_parameters(model_facts("org/m", config), adapter, peft_fields(spec)).adapter

    assert counted == sum(trainable(model).values()) > 0


def test_embeddings_asked_for_by_name_are_counted():
    targets = ("q_proj", "embed_tokens")

    counted = count_parameters(model_facts("org/m", LLAMA), "lora", {"r": 16, "target_modules": list(targets)}).adapter

    assert counted == sum(trainable(adapted(LLAMA, *targets)).values()) > 0
