"""All weights instead of an adapter: what is refused with them, what they default to, and what they need."""

import pytest

from job.environment import load_spec
from job.errors import BadSpec
from job.memory import GIB
from job.parameters import count_parameters, scoring
from job.plan import make_plan
from job.records import Facts
from job.spec import JobSpec
from tests.plans import facts_for
from tests.unit.test_environment import GOOD

FULL = {"JOB_ADAPTER": "full"}
REFUSED = {
    "a reference": ({"JOB_METHOD": "dpo"}, "JOB_ADAPTER=full leaves JOB_METHOD=dpo no reference"),
    "a reference of answers": ({"JOB_METHOD": "rloo", "JOB_REWARDS": "length=1"}, "set JOB_BETA=0, or use lora"),
    "4 bits": ({"JOB_QUANTIZATION": "nf4"}, "weights of 4 or 8 bits take no gradient; set JOB_QUANTIZATION=none"),
    "8 bits": ({"JOB_QUANTIZATION": "int8"}, "weights of 4 or 8 bits take no gradient; set JOB_QUANTIZATION=none"),
    "a rank": ({"JOB_LORA_R": "8"}, "JOB_LORA_R=8 is for JOB_ADAPTER=lora or qlora, and full has no such option"),
    "options of PEFT": ({"JOB_PEFT_ARGS": '{"r": 8}'}, "JOB_PEFT_ARGS is for adapters"),
    "an adapter to start from": ({"JOB_ADAPTER_URI": "s3://bucket/run"}, "name the result in JOB_MODEL"),
    "weights in the host's memory": ({"JOB_CPU_OFFLOAD": "true"}, "would all be updated by the CPU"),
    "the best in memory": (
        {"JOB_LOAD_BEST_MODEL_AT_END": "true", "JOB_EVAL_FRACTION": "0.1"},
        "JOB_LOAD_BEST_MODEL_AT_END=true would hold all weights of JOB_ADAPTER=full twice",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_needs_a_base_below_is_refused_with_the_way_out(case):
    settings, said = REFUSED[case]

    with pytest.raises(BadSpec) as refused:
        load_spec(GOOD | FULL | settings)

    assert said in str(refused.value)


def test_its_learning_rate_is_a_twentieth_and_the_last_step_is_published():
    spec = load_spec(GOOD | FULL | {"JOB_EVAL_FRACTION": "0.1"})

    assert spec.learning_rate == pytest.approx(1e-5)
    assert not spec.load_best_model_at_end
    assert load_spec(GOOD | {"JOB_EVAL_FRACTION": "0.1"}).load_best_model_at_end


def facts(gpus: str, model: str = "Llama-3.1-8B") -> Facts:
    """Without a dry run, which is of an adapter."""
    return facts_for(model, gpus).model_copy(update={"dry_run": None})


def spec(**settings: object) -> JobSpec:
    return JobSpec(model="org/m", dataset_uri="org/rows", global_batch_size=64, adapter="full", **settings)


def test_8b_weights_are_refused_on_one_gpu_and_shared_by_eight():
    with pytest.raises(
        BadSpec, match=r"at the least each GPU needs .* \(weights and gradients .* Set JOB_ADAPTER=lora"
    ):
        make_plan(spec(), facts("H100"))

    plan = make_plan(spec(), facts("8xH100"))

    assert (plan.strategy, plan.quantization, plan.cpu_offload, plan.adapter_dtype) == ("fsdp", "none", False, "fp32")


@pytest.mark.parametrize(
    ("strategy", "gpus", "each"),
    [
        ("single", "H100", 4 + 4 + 8 + 2),  # weights, gradients and both moments in 32 bits; autocast's copy in 16
        ("ddp", "2xH100", 4 + 2 * 4 + 8 + 2),  # gradients in DDP's buckets too
        ("fsdp", "2xH100", (4 + 4 + 8) / 2),
        ("zero2", "2xH100", 2 + 2 / 2 + (4 + 4 + 8) / 2),  # of DeepSpeed's copy in 32 bits each its share
    ],
)
def test_every_weight_takes_the_bytes_that_it_is_known_for(strategy, gpus, each):
    small = facts(gpus, "Llama-3.2-1B")

    plan = make_plan(spec(strategy=strategy), small)

    held = {item.name: item.gib for item in plan.memory.items}
    parameters = sum(group.numel for group in small.model.tensors)
    assert held["weights and gradients"] + held["optimizer"] == pytest.approx(each * parameters / GIB)
    assert "base weights" not in held


def test_a_reward_model_has_one_number_in_the_place_of_its_head():
    model = facts("H100").model
    language = count_parameters(model, "full", {})

    scores = scoring(language, model)

    assert language.adapter == language.total
    assert scores.adapter == scores.total + scores.hidden == language.total - language.head + scores.hidden
