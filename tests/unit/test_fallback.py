"""What is given up when memory runs out, in order, and what never is."""

import pytest

from job.errors import OutOfMemory
from job.fallback import out_of_fallbacks, smaller_plan
from job.records import MemoryEstimate, MemoryItem, Plan
from job.spec import JobSpec

ESTIMATE = MemoryEstimate(items=(MemoryItem(name="base weights", gib=14.96, why=""),), limit_gib=20.2)


def plan(per_device: int = 1, accumulation: int = 2, **changes: object) -> Plan:
    settings: dict[str, object] = {
        "strategy": "ddp", "num_processes": 2, "precision": "bf16", "packing": False, "max_length": 64,
        "per_device_train_batch_size": per_device, "gradient_accumulation_steps": accumulation,
        "global_batch_size": per_device * accumulation * 2, "gradient_checkpointing": False, "use_gpu": True,
        "reasons": {},
    }  # fmt: skip
    return Plan.model_validate(settings | changes)


def spec(**settings: object) -> JobSpec:
    return JobSpec(model="org/m", **settings)


def fall_all_the_way(start: Plan, **settings: object) -> list[Plan]:
    plans = [start]
    while (smaller := smaller_plan(plans[-1], spec(**settings))) is not None:
        plans.append(smaller)
    return plans


def test_the_micro_batch_goes_first_then_activations_then_the_place_of_the_base():
    last = fall_all_the_way(plan(per_device=4))[-1]

    assert last.fallbacks == (
        "per-device batch 4 → 2, accumulation 2 → 4",
        "per-device batch 2 → 1, accumulation 4 → 8",
        "gradient checkpointing on",
        "base weights in the host's memory",
    )
    assert (last.strategy, last.cpu_offload) == ("fsdp", True)


@pytest.mark.parametrize("per_device", [1, 2, 3, 5, 6, 8, 12])
def test_the_global_batch_stays_what_it_was(per_device):
    for smaller in fall_all_the_way(plan(per_device=per_device, accumulation=3)):
        step = smaller.per_device_train_batch_size * smaller.gradient_accumulation_steps * smaller.num_processes
        assert step == smaller.global_batch_size == per_device * 3 * 2


def test_a_base_that_must_stay_on_the_gpu_stays_there():
    last = fall_all_the_way(plan(), cpu_offload=False)[-1]

    assert (last.strategy, last.cpu_offload, last.fallbacks) == ("ddp", False, ("gradient checkpointing on",))


def test_zero3_offloads_as_itself_and_zero2_keeps_the_base():
    tight = {"gradient_checkpointing": True}

    assert fall_all_the_way(plan(strategy="zero3", **tight))[-1].strategy == "zero3"
    assert fall_all_the_way(plan(strategy="zero3", **tight))[-1].cpu_offload
    assert fall_all_the_way(plan(strategy="zero2", **tight)) == [plan(strategy="zero2", **tight)]


def test_activations_of_a_prefix_are_never_recomputed():
    last = fall_all_the_way(plan(per_device=2), adapter="prefix")[-1]

    assert "gradient checkpointing on" not in last.fallbacks
    assert not last.gradient_checkpointing


def test_nothing_is_given_up_twice():
    assert smaller_plan(plan(strategy="fsdp", gradient_checkpointing=True, cpu_offload=True), spec()) is None


def test_the_end_tells_what_was_tried_and_what_had_been_foreseen():
    tried = plan(memory=ESTIMATE, fallbacks=("gradient checkpointing on",))

    error = out_of_fallbacks(tried, OutOfMemory("GPU memory ran out (CUDA out of memory)", "Use a larger GPU."))

    assert str(error) == (
        "GPU memory ran out (CUDA out of memory) after giving up: gradient checkpointing on. "
        "The plan had foreseen 15.0 GiB: base weights 15.0. Use a larger GPU."
    )
