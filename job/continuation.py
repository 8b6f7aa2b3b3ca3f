"""A plan under which a run can go on from its newest checkpoint. Pure."""

from job.errors import BadSpec, JobError, UnsuitableHost
from job.plan import make_plan
from job.records import Decided, Facts, Layout, Plan, Strategy
from job.spec import JobSpec


def plan_to_continue(spec: JobSpec, facts: Facts, decided: Decided | None, layout: Layout | None) -> Plan:
    """The plan for *spec* on *facts*; where a checkpoint in *layout* is to be gone on from, one that can read it.

    The number of GPUs changes neither the global batch nor the order of the data, so it is free as long as every
    process holds the whole state; a state that is spread needs as many as it was spread over.

    Raises:
        BadSpec: there is no such plan for this machine or this spec.
        UnsuitableHost: the checkpoint's precision is not this machine's.
        JobError: what `make_plan` raises.
    """
    plan = make_plan(spec, facts, decided)
    if layout is None or layout.suits(plan):
        return plan
    if layout.precision != plan.precision:
        raise UnsuitableHost(
            f"The run was begun in {layout.precision}, and this machine would train in {plan.precision}.",
            f"Use a machine whose GPUs have {layout.precision}, as the one before.",
        )
    for same in _alike(spec, layout):
        if (other := _try(same, facts, decided)) and layout.suits(other):
            why = f"{other.reasons['strategy']}; no other can read the checkpoint of step {layout.step}"
            return other.model_copy(update={"reasons": other.reasons | {"strategy": why}})
    made_by = f"{layout.strategy} over {layout.num_processes} process{'es' * (layout.num_processes > 1)}"
    raise BadSpec(
        f"The checkpoint of step {layout.step} was made by {made_by}, which this machine and JOB_STRATEGY="
        f"{spec.strategy} do not allow.",
        "Use a machine like the one before, or another JOB_OUTPUT_URI to begin anew.",
    )


def _alike(spec: JobSpec, layout: Layout) -> list[JobSpec]:
    """*spec* under each strategy that reads *layout*, as far as it leaves that open."""
    spread = layout.strategy in ("fsdp", "zero2", "zero3")
    strategies: list[Strategy] = [layout.strategy] if spread else ["ddp", "single"]
    open_ones = [strategy for strategy in strategies if spec.strategy in ("auto", strategy)]
    update = {"num_processes": layout.num_processes} if spread else {}
    return [spec.model_copy(update={"strategy": strategy} | update) for strategy in open_ones]


def _try(spec: JobSpec, facts: Facts, decided: Decided | None) -> Plan | None:
    try:
        return make_plan(spec, facts, decided)
    except JobError:
        return None
