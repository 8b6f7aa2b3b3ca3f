"""What to give up when memory ran out all the same: half of the micro-batch, then stored activations, then the place of
the frozen base. The global batch, and with it every optimizer step, stays what it was."""

from job.compatibility import can_checkpoint, settled_optim, works
from job.errors import OutOfMemory
from job.records import Plan, Strategy
from job.spec import JobSpec

# What can leave the base in the host's memory, in the place of each strategy; zero2 was asked for to keep it.
_OFFLOADS: dict[Strategy, Strategy] = {"single": "fsdp", "ddp": "fsdp", "fsdp": "fsdp", "zero3": "zero3"}


def smaller_plan(plan: Plan, spec: JobSpec) -> Plan | None:
    """*plan* with one thing given up, which is added to ``fallbacks``; None when there is nothing left to give up."""
    if size := _smaller(plan):
        return _with_micro_batch(plan, size)
    if not plan.gradient_checkpointing and can_checkpoint(spec):
        return _given_up(plan, "gradient checkpointing on", gradient_checkpointing=True)
    strategy = _OFFLOADS.get(plan.strategy)
    may_offload = spec.cpu_offload is not False and not plan.cpu_offload
    if may_offload and strategy and works(spec, strategy, plan.quantization):
        optim = settled_optim(spec.optim, strategy, plan.quantization)
        return _given_up(plan, "base weights in the host's memory", strategy=strategy, optim=optim, cpu_offload=True)
    return None


def out_of_fallbacks(plan: Plan, error: OutOfMemory) -> OutOfMemory:
    """*error*, with what was given up before it and what the arithmetic had said."""
    given_up = f" after giving up: {'; '.join(plan.fallbacks)}" if plan.fallbacks else ""
    said = ""
    if plan.memory:
        parts = ", ".join(f"{item.name} {item.gib:.1f}" for item in plan.memory.items)
        said = f" The plan had foreseen {plan.memory.total_gib:.1f} GiB: {parts}."
    return OutOfMemory(f"{error.cause}{given_up}.{said}", error.fix)


def _smaller(plan: Plan) -> int | None:
    """The largest proper divisor of the micro-batch, half of an even number, that the method can do with."""
    size = plan.per_device_train_batch_size
    return next((less for less in range(size // 2, plan.least_per_device - 1, -1) if size % less == 0), None)


def _with_micro_batch(plan: Plan, new: int) -> Plan:
    old = plan.per_device_train_batch_size
    accumulation = plan.gradient_accumulation_steps * old // new
    what = f"per-device batch {old} → {new}, accumulation {plan.gradient_accumulation_steps} → {accumulation}"
    return _given_up(plan, what, per_device_train_batch_size=new, gradient_accumulation_steps=accumulation)


def _given_up(plan: Plan, what: str, **changes: object) -> Plan:
    return plan.model_copy(update={**changes, "fallbacks": (*plan.fallbacks, what)})
