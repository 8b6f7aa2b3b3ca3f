"""Plans for pairs and judged answers: what a micro-batch holds, takes and may not be."""

import pytest

from job.errors import BadSpec
from job.fallback import smaller_plan
from job.plan import make_plan
from job.records import Plan
from job.spec import JobSpec
from tests.plans import facts_for, plan_for

MODEL, GPU = "Llama-3.1-8B", "H100-80GB"


def memory(plan: Plan, name: str) -> float:
    assert plan.memory
    return sum(item.gib for item in plan.memory.items if item.name == name)


def plan(method: str, **settings: object) -> Plan:
    fixed = {"per_device_train_batch_size": 2, "gradient_checkpointing": True, "quantization": "none"}
    return plan_for(MODEL, GPU, method=method, **(fixed | settings))


def test_a_pair_takes_the_activations_of_two_rows():
    assert memory(plan("dpo"), "activations") == pytest.approx(2 * memory(plan("kto"), "activations"))


def test_answers_are_never_packed():
    assert not plan("dpo").packing
    assert plan("dpo").reasons["packing"] == "off: answers are compared one by one"


def test_a_reward_model_has_no_head_over_the_vocabulary():
    assert memory(plan("reward"), "base weights") < memory(plan("dpo"), "base weights") - 0.9
    assert memory(plan("reward"), "loss head") == 0


def test_a_reference_takes_time():
    speeds = [found.forecast.tokens_per_s for found in (plan("reward"), plan("dpo")) if found.forecast]

    assert len(speeds) == 2
    assert speeds[1] < 0.9 * speeds[0]


def test_rows_of_kto_are_compared_so_a_micro_batch_has_two_at_least():
    small = plan("kto", gradient_checkpointing=False)

    assert smaller_plan(small, JobSpec(model="org/m")).per_device_train_batch_size == 2
    with pytest.raises(BadSpec, match="JOB_GLOBAL_BATCH_SIZE=1 leaves each of 1 GPUs 1 rows"):
        make_plan(JobSpec(model="org/m", method="kto", global_batch_size=1), facts_for(MODEL, GPU))
    with pytest.raises(ValueError, match="JOB_PER_DEVICE_TRAIN_BATCH_SIZE=1 is too small for JOB_METHOD=kto"):
        plan("kto", per_device_train_batch_size=1)
