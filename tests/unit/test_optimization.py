"""Optimizers and schedules: which are taken, which are refused, what they are told."""

import pytest

from job.compatibility import OPTIMIZERS_OF, settled_optim, works
from job.environment import load_spec
from job.errors import BadSpec
from job.optimizers import OPTIMIZERS
from job.schedules import SCHEDULE_ARGUMENTS
from job.spec import JobSpec
from tests.unit.test_plan import H100, facts, plan

GOOD = {"JOB_MODEL": "org/m", "JOB_DATASET_URI": "org/d", "JOB_OUTPUT_URI": "/out"}


def refusal(**env: str) -> str:
    with pytest.raises(BadSpec) as error:
        load_spec(GOOD | env)
    return error.value.cause


def test_a_4_bit_base_brings_the_optimizer_whose_states_can_be_paged():
    assert plan(facts(H100), adapter="qlora").optim == "paged_adamw_32bit"
    assert plan(facts(H100)).optim == "adamw_torch_fused"
    assert plan(facts(H100), adapter="qlora", optim="lion_8bit").optim == "lion_8bit"
    assert settled_optim("auto", "fsdp", "nf4") == "adamw_torch_fused"


@pytest.mark.parametrize("optim", sorted(OPTIMIZERS))
def test_each_optimizer_is_valid_and_its_reason_is_given(optim):
    made = plan(facts(H100), optim=optim)

    assert made.optim == optim
    assert made.reasons["optim"] == f"{optim}: as set"


def test_an_optimizer_of_another_package_is_refused_with_those_that_are_here():
    said = refusal(JOB_OPTIM="galore_adamw")

    assert said.startswith("JOB_OPTIM=galore_adamw: it is not one of auto, adamw_torch_fused,")
    assert said.endswith("others need packages that are not here.")


REFUSED = [
    (strategy, optim) for strategy, taken in OPTIMIZERS_OF.items() for optim in sorted(set(OPTIMIZERS) - set(taken))
]


@pytest.mark.parametrize(("strategy", "optim"), REFUSED)
def test_what_a_strategy_cannot_spread_is_refused_at_the_start_and_never_planned(strategy, optim):
    assert f"JOB_STRATEGY={strategy} cannot run" in refusal(JOB_STRATEGY=strategy, JOB_OPTIM=optim)
    assert not works(JobSpec(model="org/m", optim=optim), strategy, "none")


@pytest.mark.parametrize(
    ("schedule", "arguments", "reason"),
    [
        ("cosine", '{"min_lr": 1}', "has no argument 'min_lr'; it takes num_cycles"),
        ("constant", '{"x": 1}', "has no argument 'x'; it takes none"),
        ("cosine_with_min_lr", "{}", 'needs min_lr_rate or min_lr; set JOB_LR_SCHEDULER_KWARGS={"min_lr_rate": …}'),
        ("warmup_stable_decay", '{"min_lr_ratio": 0.1}', "needs num_decay_steps"),
        ("reduce_lr_on_plateau", '{"patience": 2}', "goes by evaluations; set JOB_EVAL_FRACTION=0.05 too"),
    ],
)
def test_a_schedule_is_refused_with_arguments_that_it_cannot_be_made_with(schedule, arguments, reason):
    assert reason in refusal(JOB_LR_SCHEDULER_TYPE=schedule, JOB_LR_SCHEDULER_KWARGS=arguments)


def test_every_schedule_of_the_setting_has_its_arguments_listed():
    said = refusal(JOB_LR_SCHEDULER_TYPE="none")

    assert all(f"'{schedule}'" in said for schedule in SCHEDULE_ARGUMENTS)


def test_early_stopping_needs_evaluations():
    assert "JOB_EARLY_STOPPING_PATIENCE is set without rows" in refusal(JOB_EARLY_STOPPING_PATIENCE="2")
    assert "without JOB_EARLY_STOPPING_PATIENCE" in refusal(JOB_EARLY_STOPPING_THRESHOLD="0.1", JOB_EVAL_FRACTION="0.1")
