"""Training as the supervisor sees it: the workers run to their end, and start again with less when memory runs out."""

from collections.abc import Callable

from job.checkpoints import newest_checkpoint
from job.errors import OutOfMemory
from job.events import EventTail, LineTail
from job.fallback import out_of_fallbacks, smaller_plan
from job.launch import run_training
from job.records import Plan, StopNotice, TrainResult, TrainTask
from job.run import Run
from job.rundir import RunDir, read_record, write_json


def train_within_memory(
    plan: Plan, task: TrainTask, run: Run, wants_stop: Callable[[], StopNotice | None]
) -> tuple[Plan, TrainResult]:
    """Train as *plan* says, and whenever memory runs out with less at a time, from the newest checkpoint; returns the
    plan that held. What *wants_stop* returns ends it early, with a result that says so.

    Raises:
        OutOfMemory: there is nothing left to give up.
        Interrupted: the workers did not stop in time.
        JobError: whatever else ended it.
    """
    events = EventTail(run.dir.log)
    while True:
        write_json(run.dir.plan, plan)
        checkpoint = newest_checkpoint(run.dir.checkpoints, plan)
        write_json(run.dir.train_task, task.model_copy(update={"resume_from": checkpoint}))
        try:
            return plan, _train(plan, run, wants_stop, events)
        except OutOfMemory as error:
            if error.of_host:  # of which a smaller plan takes as much
                raise
            smaller = smaller_plan(plan, run.spec)
            if smaller is None or _loses_steps(run.dir, plan, smaller):
                raise out_of_fallbacks(plan, error) from error
            plan = smaller
            run.log.write("out_of_memory", cause=error.cause, given_up=plan.fallbacks[-1])
            run.console.warn(f"  {error.cause}: {plan.fallbacks[-1]}, and on from {_place(run.dir, plan)}")


def _loses_steps(run_dir: RunDir, plan: Plan, smaller: Plan) -> bool:
    """Whether another strategy could not read the checkpoint that there is, and would begin anew."""
    return bool(newest_checkpoint(run_dir.checkpoints, plan)) and not newest_checkpoint(run_dir.checkpoints, smaller)


def _place(run_dir: RunDir, plan: Plan) -> str:
    checkpoint = newest_checkpoint(run_dir.checkpoints, plan)
    return checkpoint.name if checkpoint else "the first step"


def _train(plan: Plan, run: Run, wants_stop: Callable[[], StopNotice | None], events: EventTail) -> TrainResult:
    output = LineTail(run.dir.worker_log)  # which each launch begins anew

    def watch() -> None:
        for event in events.new():
            run.hear(event)
        for line in output.new() if run.spec.log_level == "debug" else ():
            run.console.say(line)

    run_training(plan, run.dir, run.shop.env, run.spec.hang_timeout_s, wants_stop, watch)
    return read_record(run.dir.train_result, TrainResult)
