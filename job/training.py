"""Training as the supervisor sees it: the workers run to their end, and start again with less when memory runs out."""

from job.checkpoints import newest_checkpoint
from job.console import Console
from job.errors import Interrupted, OutOfMemory
from job.events import EventLog, EventTail, LineTail
from job.fallback import out_of_fallbacks, smaller_plan
from job.launch import run_training
from job.preparation import Workshop
from job.records import Plan, TrainResult, TrainTask
from job.rundir import RunDir, read_record, write_json
from job.spec import JobSpec


def train_within_memory(
    plan: Plan, task: TrainTask, spec: JobSpec, run_dir: RunDir, shop: Workshop, console: Console
) -> tuple[Plan, TrainResult]:
    """Train as *plan* says, and whenever memory runs out with less at a time, from the newest checkpoint; returns the
    plan that held.

    Raises:
        OutOfMemory: there is nothing left to give up.
        Interrupted: a signal stopped training.
        JobError: whatever else ended it.
    """
    events = EventTail(run_dir.log)
    while True:
        write_json(run_dir.plan, plan)
        checkpoint = newest_checkpoint(run_dir.checkpoints, plan)
        write_json(run_dir.train_task, task.model_copy(update={"resume_from": checkpoint}))
        try:
            return plan, _train(plan, spec, run_dir, shop, console, events)
        except OutOfMemory as error:
            if error.of_host:  # of which a smaller plan takes as much
                raise
            smaller = smaller_plan(plan, may_offload=spec.cpu_offload is not False)
            if smaller is None:
                raise out_of_fallbacks(plan, error) from error
            plan = smaller
            EventLog(run_dir.log).write("out_of_memory", cause=error.cause, given_up=plan.fallbacks[-1])
            console.warn(f"  {error.cause}: {plan.fallbacks[-1]}, and on from {_place(run_dir, plan)}")


def _place(run_dir: RunDir, plan: Plan) -> str:
    checkpoint = newest_checkpoint(run_dir.checkpoints, plan)
    return checkpoint.name if checkpoint else "the first step"


def _train(
    plan: Plan, spec: JobSpec, run_dir: RunDir, shop: Workshop, console: Console, events: EventTail
) -> TrainResult:
    output = LineTail(run_dir.worker_log)  # which each launch begins anew

    def watch() -> None:
        for event in events.new():
            console.event(event)
        for line in output.new() if spec.log_level == "debug" else ():
            console.say(line)

    run_training(plan, run_dir, shop.env, spec.hang_timeout_s, lambda: shop.stop.notice(spec.grace_s), watch)
    result = read_record(run_dir.train_result, TrainResult)
    if result.status == "stopped":
        name = shop.stop.signal.name if shop.stop.signal else "The stop file"
        raise Interrupted(
            f"{name} stopped training after step {result.steps} of {result.total_steps}.",
            "Run the same job again; it starts from the first step, as no checkpoint is stored.",
        )
    return result
