"""The plans for real models on real GPUs: one golden table, and what must hold for every row of it."""

import re

import pytest

from job.compatibility import adapter_dtypes
from job.errors import BadSpec
from job.facts.gpus import by_memory, parse_gpus
from job.plan import make_plan
from job.records import Decided, Facts, Plan
from job.records.base import Quantization, Strategy
from job.spec import JobSpec
from tests.plans import CASES, PLANS, facts_for, plan_for, table

ON_GPUS: tuple[Strategy, ...] = ("single", "ddp", "fsdp", "zero2", "zero3")
QUANTIZATIONS: tuple[Quantization, ...] = ("none", "int8", "nf4")
every_case = pytest.mark.parametrize(("model", "gpus"), CASES)


def outcome(model: str, gpus: str, host_gib: float = 0, **settings: object) -> Plan | BadSpec:
    """The plan or the refusal; *host_gib* is 0 where nothing is known of the host."""
    facts = facts_for(model, gpus)
    hardware = facts.hardware.model_copy(update={"memory_gib": host_gib})
    try:
        return plan_on(facts.model_copy(update={"hardware": hardware}), **settings)
    except BadSpec as refusal:
        return refusal


def attempt(model: str, gpus: str, **settings: object) -> Plan | None:
    found = outcome(model, gpus, **settings)
    return found if isinstance(found, Plan) else None


def plan_on(facts: Facts, decided: Decided | None = None, **settings: object) -> Plan:
    spec = JobSpec(model="org/model", dataset_uri="org/rows", global_batch_size=64, **settings)
    return make_plan(spec, facts, decided)


def test_the_golden_table_is_what_is_planned_today():
    assert PLANS.read_text() == table(), "judge what has changed, then run python -m tests.plans"


def test_the_table_has_every_size_and_every_gpu():
    kinds = {gpu.name for _, gpus in CASES for gpu in parse_gpus(gpus)}

    assert len(set(CASES)) == len(CASES) >= 40
    assert kinds == {gpu.name for _, gpu in by_memory()}
    assert {len(parse_gpus(gpus)) for _, gpus in CASES} == {1, 2, 4, 8}


@every_case
def test_no_plan_is_above_its_limit(model, gpus):
    plan = attempt(model, gpus)

    if plan:
        smallest_gib = min(gpu.memory_gib for gpu in parse_gpus(gpus))
        assert 0 < plan.memory.total_gib <= plan.memory.limit_gib == pytest.approx(0.9 * smallest_gib)
        assert all(item.gib > 0 for item in plan.memory.items)


@every_case
def test_the_global_batch_is_the_one_that_was_asked_for(model, gpus):
    packed, unpacked = attempt(model, gpus), attempt(model, gpus, packing=False)

    for plan, rows in ((packed, 16), (unpacked, 64)):  # 64 rows of 420 tokens are 13.1 packs of 2,048
        if plan:
            share = plan.per_device_train_batch_size * plan.gradient_accumulation_steps
            assert share * plan.num_processes == plan.global_batch_size == rows
            assert plan.num_processes == len(parse_gpus(gpus))


@every_case
def test_the_order_of_preference_holds(model, gpus):
    """What is preferred is taken wherever it can be had, and nothing else is."""
    parallel = "ddp" if len(parse_gpus(gpus)) > 1 else "single"
    in_order = [
        attempt(model, gpus, quantization=quantization, strategy=strategy, cpu_offload=False)
        for quantization in ("none", "nf4")
        for strategy in dict.fromkeys((parallel, "fsdp" if parallel == "ddp" else "single"))
    ]
    in_order.append(attempt(model, gpus, quantization="none", cpu_offload=True))

    expected, plan = next((one for one in in_order if one), None), attempt(model, gpus)

    assert (plan is None) == (expected is None)
    if plan:
        assert how(plan) == how(expected)


def how(plan: Plan) -> tuple[object, ...]:
    return plan.strategy, plan.quantization, plan.cpu_offload


@every_case
def test_no_alternative_that_fits_is_much_faster_in_the_way_that_was_taken(model, gpus):
    plan = attempt(model, gpus)

    if plan:
        same = [one for one in plan.alternatives if (one.strategy, one.quantization, one.cpu_offload) == how(plan)]
        fitting = [one for one in same if one.memory_gib <= plan.memory.limit_gib]
        assert same
        assert all(one.tokens_per_s <= plan.forecast.tokens_per_s * 1.02 for one in fitting)


@every_case
def test_reasons_tell_why_the_way_before_was_not_taken(model, gpus):
    plan = attempt(model, gpus)
    if plan is None:
        return

    sentences = " ".join(plan.reasons.values())
    over = re.findall(r"needs ([\d.]+) of ([\d.]+) GiB", sentences)

    assert "not needed" not in sentences  # a verdict on what was not taken
    assert all(float(needed) > float(limit) for needed, limit in over)
    assert bool(re.search(r"needs .* GiB", plan.reasons["strategy"])) == (plan.strategy == "fsdp")
    assert bool(re.search(r"needs .* GiB", plan.reasons["quantization"])) == (
        plan.quantization != "none" or plan.cpu_offload
    )


def contradict(strategy: Strategy, quantization: Quantization, cpu_offload: bool) -> bool:
    return not adapter_dtypes(strategy, quantization, "bf16") or (cpu_offload and strategy not in ("fsdp", "zero3"))


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("cpu_offload", [True, False])
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("strategy", ON_GPUS)
@pytest.mark.parametrize("gpus", ["H100", "4xL4"])
def test_settings_are_respected_or_refused(gpus, strategy, quantization, cpu_offload, checkpointing):
    asked = {
        "strategy": strategy, "quantization": quantization, "cpu_offload": cpu_offload,
        "gradient_checkpointing": checkpointing,
    }  # fmt: skip
    if contradict(strategy, quantization, cpu_offload):
        with pytest.raises(ValueError, match=f"JOB_STRATEGY={strategy}"):
            JobSpec(model="org/model", **asked)
        return

    plan = outcome("Llama-3.1-8B", gpus, **asked)

    if isinstance(plan, BadSpec):
        assert plan.exit_code == 78
        assert plan.fix.startswith("Leave JOB_")
    else:
        assert {name: getattr(plan, name) for name in asked} == asked
        assert plan.adapter_dtype in adapter_dtypes(strategy, quantization, "bf16")


@pytest.mark.parametrize("strategy", ON_GPUS)
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_what_upstream_cannot_combine_is_refused_with_what_it_can(strategy, quantization):
    if adapter_dtypes(strategy, quantization, "bf16"):
        assert JobSpec(model="org/m", strategy=strategy, quantization=quantization)
        return

    with pytest.raises(ValueError, match=f"JOB_STRATEGY={strategy}.*JOB_QUANTIZATION={quantization}.*use JOB_QUANT"):
        JobSpec(model="org/m", strategy=strategy, quantization=quantization)


def test_the_hosts_memory_is_refused_for_a_base_that_fsdp_cannot_share():
    with pytest.raises(ValueError, match=r"JOB_CPU_OFFLOAD=true .*JOB_QUANTIZATION=int8; leave JOB_CPU_OFFLOAD unset"):
        JobSpec(model="org/m", quantization="int8", cpu_offload=True)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_the_micro_batch_that_was_asked_for_is_taken_and_accumulation_makes_up_the_rest(size):
    plan = plan_for("Llama-3.2-1B", "H100", packing=False, per_device_train_batch_size=size)

    assert (plan.per_device_train_batch_size, plan.gradient_accumulation_steps) == (size, 64 // size)


def test_a_micro_batch_that_does_not_fit_is_refused_and_not_made_smaller():
    with pytest.raises(BadSpec, match="Leave JOB_PER_DEVICE_TRAIN_BATCH_SIZE unset"):
        plan_for("Llama-3.1-8B", "L4", packing=False, per_device_train_batch_size=64)


def test_several_gpus_can_be_left_alone():
    assert plan_for("Llama-3.1-8B", "8xH100", strategy="single").num_processes == 1
    assert plan_for("Llama-3.1-8B", "8xH100", num_processes=2).num_processes == 2


def mixed(model: str, one: str, other: str) -> Facts:
    facts = facts_for(model, one)
    hardware = facts.hardware.model_copy(update={"gpus": (*parse_gpus(one), *parse_gpus(other))})
    return facts.model_copy(update={"hardware": hardware})


def test_different_gpus_are_planned_for_the_smallest_memory_and_the_slowest_speed():
    alike, unlike = plan_for("Llama-3.1-8B", "2xL4"), plan_on(mixed("Llama-3.1-8B", "H100", "L4"))

    assert unlike.memory == alike.memory
    assert unlike.forecast.tokens_per_s == alike.forecast.tokens_per_s
    assert "NVIDIA H100 80GB HBM3 and NVIDIA L4" in unlike.reasons["strategy"]


def test_the_slowest_gpu_need_not_be_the_smallest():
    plan = plan_on(mixed("Llama-3.2-1B", "RTX3090", "L4"))

    assert plan.memory.limit_gib == pytest.approx(0.9 * 22.5)  # of the L4
    assert plan.forecast.tokens_per_s == plan_for("Llama-3.2-1B", "2xRTX3090").forecast.tokens_per_s


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("packing", [True, False])
def test_what_an_earlier_attempt_decided_is_kept_on_other_gpus(quantization, packing):
    decided = Decided(quantization=quantization, packing=packing)

    for gpus in ("L4", "H100", "2xRTX4090"):
        plan = plan_on(facts_for("Llama-3.1-8B", gpus), decided)
        assert (plan.quantization, plan.packing) == (quantization, packing)
        assert plan.reasons["quantization"] == f"{quantization}, as an earlier attempt decided"


@pytest.mark.parametrize("gpus", ["T4", "H100", "8xH100"])
def test_qlora_is_nf4_however_large_the_gpu(gpus):
    plan = plan_for("Llama-3.1-8B", gpus, adapter="qlora")

    assert (plan.quantization, plan.cpu_offload) == ("nf4", False)
    assert plan.reasons["quantization"] == "nf4, as set"


def test_an_exact_base_is_shared_before_a_quantized_one_is_copied():
    assert how(plan_for("Qwen2.5-14B", "2xRTX4090")) == ("fsdp", "none", False)
    assert how(plan_for("Qwen2.5-14B", "2xRTX4090", adapter="qlora")) == ("ddp", "nf4", False)


def test_a_base_that_the_host_cannot_hold_stays_out_of_it():
    model, gpus = "Llama-3.3-70B-Instruct", "2xRTX4090"

    assert outcome(model, gpus, host_gib=256).cpu_offload
    refusal = outcome(model, gpus, host_gib=64)
    assert re.search(r"needs 43\.\d GiB of 21\.6 GiB \(base weights ", refusal.cause)
    assert refusal.cause.endswith(", and the host has 64 GiB for a base of 131 GiB.")


def test_an_offload_that_was_asked_for_is_refused_by_what_the_host_has():
    refusal = outcome("Qwen2.5-32B", "RTX3090", host_gib=64, cpu_offload=True, max_length=4096)

    assert refusal.cause.endswith("RTX 3090: the host has 64 GiB for a base of 61 GiB.")
    assert refusal.fix == "Leave JOB_CPU_OFFLOAD unset and set JOB_MAX_LENGTH=2048."


@pytest.mark.parametrize(
    ("model", "gpus", "settings", "fix"),
    [
        (
            "Llama-3.1-8B", "L4", {"quantization": "none", "gradient_checkpointing": False},
            "Leave JOB_GRADIENT_CHECKPOINTING unset.",
        ),
        ("Qwen2.5-14B", "RTX4090", {"quantization": "none"}, "Leave JOB_QUANTIZATION unset."),
        ("Qwen2.5-14B", "2xRTX4090", {"quantization": "none", "strategy": "ddp"}, "Leave JOB_STRATEGY unset."),
        ("Qwen2.5-32B", "8xA10G", {"num_processes": 1}, "Leave JOB_NUM_PROCESSES unset."),
        (
            "Qwen2.5-14B", "RTX4090", {"quantization": "none", "gradient_checkpointing": False},
            "Leave JOB_GRADIENT_CHECKPOINTING and JOB_QUANTIZATION unset.",
        ),
        ("Qwen2.5-32B", "RTX3090", {"max_length": 4096}, "Set JOB_MAX_LENGTH=2048."),
        (
            "Qwen2.5-32B", "RTX3090", {"quantization": "none", "max_length": 4096},
            "Leave JOB_QUANTIZATION unset and set JOB_MAX_LENGTH=2048.",
        ),
        ("Llama-3.3-70B-Instruct", "T4", {}, "Take 1 × RTX6000-ADA, or a smaller model."),
        ("Llama-3.3-70B-Instruct", "8xL4", {}, "Take 1 × RTX6000-ADA, or a smaller model."),
        (
            "Llama-3.3-70B-Instruct", "L4", {"strategy": "fsdp"},
            "Leave JOB_STRATEGY unset and take 1 × RTX6000-ADA, or a smaller model.",
        ),
    ],
)  # fmt: skip
def test_the_remedy_is_the_cheapest_change_that_helps(model, gpus, settings, fix):
    assert outcome(model, gpus, host_gib=16, **settings).fix == fix


@pytest.mark.parametrize(("model", "gpus"), [case for case in CASES if case[1] in ("T4", "L4", "RTX3090", "8xL4")])
@pytest.mark.parametrize(
    "settings", [{}, {"quantization": "none"}, {"gradient_checkpointing": False}, {"cpu_offload": True}], ids=str
)
def test_what_is_advised_really_fits_and_needs_no_host(model, gpus, settings):
    refusal = outcome(model, gpus, host_gib=16, **settings)

    if isinstance(refusal, BadSpec):
        plan = follow(refusal.fix, model, gpus, settings)
        assert isinstance(plan, Plan)
        assert not plan.cpu_offload


def follow(fix: str, model: str, gpus: str, settings: dict[str, object]) -> Plan | BadSpec:
    """The outcome of doing what *fix* says."""
    left = {name.lower() for name in re.findall(r"JOB_(\w+)(?= and| unset)", fix)}
    kept = {name: value for name, value in settings.items() if name not in left}
    if length := re.search(r"JOB_MAX_LENGTH=(\d+)", fix):
        kept["max_length"] = int(length[1])
    if machine := re.search(r"ake (\d+ × [\w-]+),", fix):
        gpus = machine[1]
    assert left or length or machine
    return outcome(model, gpus, host_gib=16, **kept)
