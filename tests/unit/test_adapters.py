"""Adapters and their options: what is an adapter's own, and what upstream cannot combine is refused at the start."""

import json

import pytest

from job.adapters import KINDS, SPECIAL, peft_fields
from job.candidates import Way, adapter_dtype
from job.environment import load_spec
from job.errors import BadSpec
from job.peft_fields import PEFT_FIELDS
from job.plan import make_plan
from job.spec import JobSpec
from tests.plans import facts_for
from tests.unit.test_environment import GOOD


def spec(**settings: object) -> JobSpec:
    return JobSpec(model="org/m", **settings)


def refusal(**settings: str) -> str:
    with pytest.raises(BadSpec) as refused:
        load_spec(GOOD | settings)
    return str(refused.value)


def fields(**settings: str) -> dict[str, object]:
    return peft_fields(load_spec(GOOD | settings))


@pytest.mark.parametrize("adapter", [name for name, kind in KINDS.items() if not kind.is_full])
def test_every_adapter_is_a_setting_and_every_field_of_it_is_pefts(adapter):
    assert set(fields(JOB_ADAPTER=adapter)) <= set(PEFT_FIELDS[KINDS[adapter].config])
    assert KINDS[adapter].settings <= set(SPECIAL)


def test_options_of_lora_reach_peft_by_their_own_names():
    found = fields(JOB_LORA_R="8", JOB_USE_RSLORA="true", JOB_USE_DORA="1", JOB_INIT_LORA_WEIGHTS="pissa_niter_16")

    assert (found["r"], found["use_rslora"], found["use_dora"]) == (8, True, True)
    assert found["init_lora_weights"] == "pissa_niter_16"
    assert fields()["init_lora_weights"] is True


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"JOB_ADAPTER": "ia3", "JOB_LORA_R": "8"}, "JOB_LORA_R=8 is for JOB_ADAPTER=lora or qlora, and ia3 has no"),
        ({"JOB_ADAPTER": "loha", "JOB_LORA_R": "8"}, "leave it unset; r, alpha are set by JOB_PEFT_ARGS"),
        ({"JOB_ADAPTER": "vera", "JOB_USE_DORA": "true"}, "JOB_USE_DORA=true is for JOB_ADAPTER=lora or qlora"),
        ({"JOB_NUM_VIRTUAL_TOKENS": "8"}, "JOB_NUM_VIRTUAL_TOKENS=8 is for JOB_ADAPTER=prefix or prompt"),
        (
            {"JOB_ADAPTER": "prompt", "JOB_TARGET_MODULES": "q_proj"},
            "JOB_TARGET_MODULES=q_proj is for JOB_ADAPTER=lora",
        ),
        ({"JOB_ADAPTER": "prefix", "JOB_MODULES_TO_SAVE": "lm_head"}, "JOB_MODULES_TO_SAVE=lm_head is for"),
    ],
)
def test_an_option_of_another_adapter_is_refused_with_those_that_have_it(settings, message):
    assert message in refusal(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"JOB_ADAPTER": "loha", "JOB_QUANTIZATION": "nf4"}, "4-bit storage has packed into one column; set JOB_QUAN"),
        ({"JOB_ADAPTER": "lokr", "JOB_QUANTIZATION": "nf4"}, "JOB_ADAPTER=lokr with JOB_QUANTIZATION=nf4 cannot be"),
        ({"JOB_USE_DORA": "true", "JOB_QUANTIZATION": "int8"}, "before bitsandbytes has made its scales"),
        ({"JOB_ADAPTER": "qlora", "JOB_INIT_LORA_WEIGHTS": "olora"}, "quantized anew, so that it is another base"),
        ({"JOB_QUANTIZATION": "int8", "JOB_INIT_LORA_WEIGHTS": "pissa"}, "from weights of 16 or 32 bits alone; set"),
        ({"JOB_ADAPTER": "loha", "JOB_STRATEGY": "zero3"}, "leaves each GPU a part; set JOB_STRATEGY=auto"),
        ({"JOB_ADAPTER": "prefix", "JOB_GRADIENT_CHECKPOINTING": "true"}, "cannot be recomputed; leave it unset"),
        ({"JOB_ADAPTER": "prompt", "JOB_PACKING": "true"}, "before the first row of a pack alone"),
        ({"JOB_TARGET_MODULES": "q_proj,lm_head"}, "set JOB_MODULES_TO_SAVE=lm_head to train it whole"),
        ({"JOB_TARGET_MODULES": "all-linear,q_proj"}, "names modules beside all-linear"),
        ({"JOB_TARGET_MODULES": "q_proj", "JOB_MODULES_TO_SAVE": "q_proj"}, "both name q_proj"),
        ({"JOB_INIT_LORA_WEIGHTS": "eva"}, "JOB_INIT_LORA_WEIGHTS=eva: 'eva' needs rows before training"),
        ({"JOB_INIT_LORA_WEIGHTS": "pisa"}, "expected true, false, gaussian, orthogonal, pissa, olora or pissa_niter_"),
    ],
)
def test_what_upstream_cannot_combine_is_refused_with_the_reason(settings, message):
    assert message in refusal(**settings)


def test_any_other_field_of_peft_passes_through():
    args = json.dumps({"rank_pattern": {"down_proj": 32}, "exclude_modules": ["o_proj"]})

    assert fields(JOB_PEFT_ARGS=args)["rank_pattern"] == {"down_proj": 32}
    assert fields(JOB_ADAPTER="vera", JOB_PEFT_ARGS='{"r": 64}')["r"] == 64


@pytest.mark.parametrize("args", [{"r": 4}, {"oft_block_size": 16}])
def test_of_two_fields_that_say_the_same_of_oft_the_other_gives_way(args):
    found = fields(JOB_ADAPTER="oft", JOB_PEFT_ARGS=json.dumps(args))

    assert {name: found[name] for name in ("r", "oft_block_size")} == {"r": 0, "oft_block_size": 0} | args


@pytest.mark.parametrize(
    ("adapter", "args", "message"),
    [
        (
            "lora",
            {"rank_patern": {}},
            "'rank_patern' is not a field of PEFT's LoraConfig; 'rank_pattern' may be meant",
        ),
        (
            "prompt",
            {"zzz": 1},
            "is not a field of PEFT's PromptTuningConfig; it has modules_to_save, num_virtual_tokens",
        ),
        ("lora", {"r": 8}, "'r' has a variable of its own; set JOB_LORA_R"),
        ("prefix", {"num_virtual_tokens": 8}, "set JOB_NUM_VIRTUAL_TOKENS"),
        ("ia3", {"target_modules": ["q_proj"]}, "set JOB_TARGET_MODULES"),
        ("lora", {"task_type": "SEQ_CLS"}, "'task_type' is set by the job itself"),
        ("prompt", {"modules_to_save": ["lm_head"]}, "'modules_to_save' is for JOB_ADAPTER=lora or qlora or ia3"),
        ("lora", {"layers_to_transform": [0]}, "'layers_to_transform' needs modules by name"),
        ("vera", {"save_projection": False}, "'save_projection' is set by the job itself"),
        ("lora", {"bias": "all"}, "'bias' is not supported: without the adapter the model would no longer be the base"),
        ("prefix", {"prefix_projection": True}, "from which no run can go on"),
        ("loha", {"r": "eight"}, "'r' is 'eight', where PEFT takes a whole number"),
        ("lokr", {"decompose_both": 1}, "'decompose_both' is 1, where PEFT takes true or false"),
        ("loha", {"rank_dropout": True}, "'rank_dropout' is True, where PEFT takes a number"),
    ],
)
def test_other_fields_are_checked_without_peft(adapter, args, message):
    assert message in refusal(JOB_ADAPTER=adapter, JOB_PEFT_ARGS=json.dumps(args))


def test_all_problems_of_an_adapter_are_told_at_once():
    message = refusal(JOB_ADAPTER="prompt", JOB_LORA_R="8", JOB_PACKING="true", JOB_PEFT_ARGS='{"zzz": 1, "yyy": 2}')

    assert message.startswith("4 settings are wrong")


def test_what_begins_with_the_bases_weights_takes_no_patterns():
    settings = {"JOB_INIT_LORA_WEIGHTS": "pissa", "JOB_PEFT_ARGS": '{"rank_pattern": {"q_proj": 4}}'}

    assert "JOB_INIT_LORA_WEIGHTS=pissa cannot be published with rank_pattern" in refusal(**settings)


def test_virtual_tokens_take_their_part_of_the_models_length():
    facts = facts_for("Llama-3.1-8B", "H100-80GB")
    limited = facts.model_copy(update={"model": facts.model.model_copy(update={"max_length": 1024})})

    plan = make_plan(spec(adapter="prompt", num_virtual_tokens=24), limited)

    assert plan.max_length == 1000
    assert not plan.packing
    assert "would stand before the first row of a pack alone" in plan.reasons["packing"]


def test_a_base_that_the_adapter_cannot_stand_on_is_not_chosen():
    """16 bits do not fit on this GPU, and LoHa has nothing to do with 4."""
    taken = make_plan(spec(), facts_for("Llama-3.1-8B", "L4"))
    assert make_plan(spec(adapter="ia3"), facts_for("Llama-3.1-8B", "L4")).quantization == taken.quantization == "none"

    with pytest.raises(BadSpec, match="does not fit"):
        make_plan(spec(adapter="loha", strategy="single"), facts_for("Qwen2.5-32B", "L4"))


@pytest.mark.parametrize(
    ("settings", "dtype"),
    [
        ({}, "bf16"),
        ({"init_lora_weights": "gaussian"}, "bf16"),
        ({"use_dora": True}, "fp32"),
        ({"modules_to_save": ("lm_head",)}, "fp32"),
        ({"adapter": "ia3"}, "fp32"),
    ],
)
def test_what_begins_near_one_is_held_in_32_bits_over_a_quantized_base(settings, dtype):
    assert adapter_dtype(spec(**settings), Way("ddp", "nf4"), "bf16") == dtype
