"""Plans of runs that draw answers: what a step holds, where it runs, and the memory that drawing takes."""

import pytest

from job.errors import BadSpec
from job.memory import cache_per_token
from job.records import Plan
from tests.models import golden_facts
from tests.plans import plan_for

GRPO = {"method": "grpo", "rewards": {"length": 1.0}, "max_completion_length": 1024}


def items(plan: Plan) -> dict[str, float]:
    return {item.name: item.gib for item in plan.memory.items}


def test_the_number_of_gpus_changes_neither_prompts_nor_answers_of_a_step():
    plans = [plan_for("Qwen2.5-0.5B", gpus, **GRPO) for gpus in ("1xA100", "4xA100", "8xA100")]

    assert {(plan.global_batch_size, plan.num_generations, plan.packing) for plan in plans} == {(64, 8, False)}
    assert {plan.rows_at_a_time * plan.gradient_accumulation_steps for plan in plans} == {64}


def test_an_epoch_has_as_many_steps_as_whole_groups_of_prompts_fill():
    plan = plan_for("Qwen2.5-0.5B", "1xA100", **GRPO)

    assert plan.global_batch_size // plan.num_generations == 8
    assert (plan.steps_per_epoch(39), plan.steps_per_epoch(32)) == (4, 4)


def test_keys_and_values_of_all_answers_of_a_step_are_foreseen():
    # 36 layers × 8 heads × 128 × 2 (key and value) × 2 bytes
    assert cache_per_token(golden_facts("Qwen/Qwen3-8B").config, "bf16") == 36 * 8 * 128 * 2 * 2
    one, four = (plan_for("Qwen3-8B", gpus, **GRPO) for gpus in ("1xA100-80GB", "4xA100-80GB"))

    assert items(one)["keys and values"] == pytest.approx(64 * 2048 * 147456 * 1.1 / 2**30)
    assert items(four).get("keys and values", 0) < items(one)["keys and values"] / 3


def test_a_base_that_does_not_fit_is_quantized_and_never_shared():
    plan = plan_for("Qwen2.5-14B", "2xA100-40GB", **GRPO)

    assert (plan.strategy, plan.quantization) == ("ddp", "nf4")


def test_what_only_sharing_could_hold_is_refused():
    with pytest.raises(BadSpec):
        plan_for("Llama-3.3-70B-Instruct", "8xA100-40GB", **GRPO)
