"""The base model in numbers: what its tensors are for is told by their names, however odd the model."""

from typing import Any

import pytest

from job.activations import knows
from job.parameters import count_parameters
from job.plan import make_plan
from job.records import ModelFacts, TensorGroup
from job.spec import JobSpec
from tests.models import MODELS, golden_dry_run, golden_facts
from tests.plans import facts_for
from tests.unit.test_memory import ALL, LLAMA, parameters, why_activations


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_counted_once(name):
    found = parameters(name)

    assert found.linear + found.experts + found.rest + found.outside == found.total == MODELS[name][0]
    assert 0 < found.rest < 0.002 * found.total
    assert bool(found.experts) == (found.active_share < 1)


@pytest.mark.parametrize("name", MODELS)
def test_logits_come_from_the_head_or_from_the_embedding_that_is_tied_to_it(name):
    config = golden_facts(name).config

    assert parameters(name).head == config["vocab_size"] * config["hidden_size"]


def test_experts_of_a_mixture_are_no_linear_modules_and_a_token_passes_through_few():
    small, large = parameters("Qwen/Qwen3-30B-A3B"), parameters("Qwen/Qwen3-235B-A22B")

    assert small.experts == 48 * 128 * 3 * 2048 * 768
    assert small.linear == 48 * (2 * 2048 * 4096 + 2 * 2048 * 512)
    assert small.rest == 48 * (2048 * 128 + 2 * 2048 + 2 * 128)  # router and norms
    assert (round(small.multiplied / 1e9), round(large.multiplied / 1e9)) == (3, 22)  # as their names say


@pytest.mark.parametrize("name", [name for name in MODELS if golden_dry_run(name)])
def test_names_tell_the_same_as_the_modules_that_upstream_builds(name):
    found, built = parameters(name), golden_dry_run(name)

    assert found.linear == built.quantized_parameters
    assert found.largest_linear == built.largest_linear_parameters
    assert found.adapter == built.adapter_parameters


def model(config: dict[str, Any], *tensors: tuple[str, tuple[int, ...], int]) -> ModelFacts:
    groups = tuple(TensorGroup(name=name, shape=shape, dtype="BF16", count=count) for name, shape, count in tensors)
    total = sum(group.numel for group in groups)
    return ModelFacts(
        uri="org/base", revision=None, model_type=config.get("model_type", "unknown"), parameters=total,
        weights_bytes=2 * total, dtypes={"BF16": total}, tensors=groups, config=config, max_length=None, identity="",
    )  # fmt: skip


GPT2 = model(
    {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": None},
    ("wte.weight", (50257, 768), 1), ("wpe.weight", (1024, 768), 1), ("ln_f.weight", (768,), 1),
    ("h.*.ln_*.weight", (768,), 24), ("h.*.attn.bias", (1, 1, 1024, 1024), 12),
    ("h.*.attn.c_attn.weight", (768, 2304), 12), ("h.*.attn.c_attn.bias", (2304,), 12),
    ("h.*.attn.c_proj.weight", (768, 768), 12), ("h.*.mlp.c_fc.weight", (768, 3072), 12),
    ("h.*.mlp.c_proj.weight", (3072, 768), 12),
)  # fmt: skip


def test_layers_may_stand_at_the_beginning_of_a_name():
    found = count_parameters(GPT2, "lora", {"r": 16, "target_modules": list(ALL)})

    assert found.linear == 12 * 12 * 768 * 768
    assert found.adapter == 12 * 16 * (768 * 4 + 768 * 2 + 768 * 5 + 768 * 5)
    assert (found.layers, found.hidden, found.head) == (12, 768, 50257 * 768)


@pytest.mark.parametrize(
    "odd",
    [
        GPT2,
        model({}),
        model({"model_type": "llama"}, ("weight", (), 1)),
        model({"model_type": "llama", "hidden_size": 64}, ("model.layers.*.mlp.up_proj.weight", (64, 0), 2)),
        model(golden_facts(LLAMA).config | {"num_key_value_heads": None}, ("lm_head.weight", (8, 8), 1)),
        model(golden_facts("Qwen/Qwen3-8B").config | {"head_dim": None}, ("lm_head.weight", (8, 8), 1)),
        model({"num_experts": 8, "num_experts_per_tok": None}, ("model.layers.*.experts.w1", (8, 64, 64), 2)),
    ],
    ids=["gpt2", "nothing", "scalar", "no elements", "no key heads", "no head size", "experts without a number"],
)
def test_an_odd_model_is_planned_for_all_the_same(odd):
    facts = facts_for("Llama-3.1-8B", "2xL4").model_copy(update={"model": odd})

    plan = make_plan(JobSpec(model="org/odd", dataset_uri="org/rows", global_batch_size=64), facts)

    assert not knows(odd.config)
    assert plan.strategy == "ddp"
    assert "(rule of thumb)" in why_activations(plan.memory)
