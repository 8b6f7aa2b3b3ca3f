"""What a run goes on from: a checkpoint of the output, or one that an attempt before on this machine could not push."""

import shutil

from job.checkpoints import by_step, newest_checkpoint, step_of
from job.durable import Durable, fetch_newest, suitable
from job.outbox import layout_of, post, restore, waiting
from job.output import Output
from job.records import Decided, Plan
from job.run import Run
from job.rundir import RunDir, read_record, remove_whole

_NONE = -1  # the step of a checkpoint that there is not


def bring_back(run: Run, output: Output, found: list[Durable], plan: Plan, before: Decided | None) -> list[Durable]:
    """Have the newest checkpoint that a run under *plan* can go on from lie on this machine, as the newest there. One
    that was here before waits to be pushed, if it is of the rows and the model that the run has settled *before*.
    Returns those of *found*, the newest first, that the output keeps of it or of the steps before it.

    Raises:
        AccessDenied, NetworkExhausted, UnsuitableHost: a checkpoint of the output cannot be fetched.
    """
    if same_work(before, _decided(run.dir)):
        restore(run.dir)
    else:
        forget_all(run.dir)
    local = newest_checkpoint(run.dir.checkpoints, plan)
    here, warn = step_of(local) if local else _NONE, run.console.warn
    durable = fetch_newest(output.state, suitable(found, plan, warn), run.dir.checkpoints, warn, here)
    there = durable[0].step if durable else _NONE
    run.live.durable(there if durable else None)
    _forget(run.dir, there, max(here, there))
    if local and here > there:
        post(local, run.dir.outgoing(here))
        run.console.say(f"  going on from step {here}, which is on this machine only so far")
    elif durable:
        run.console.say(f"  going on from step {there}")
    return durable


def same_work(before: Decided | None, now: Decided | None) -> bool:
    """Whether both are known to be of the same rows and the same model."""
    return before is not None and now is not None and (before.rows, before.model) == (now.rows, now.model)


def forget_all(run_dir: RunDir) -> None:
    """Remove every checkpoint from this machine."""
    for place in (run_dir.checkpoints, run_dir.outbox, run_dir.sending):
        shutil.rmtree(place, ignore_errors=True)
    run_dir.sending.mkdir()  # which a full disk may refuse later


def _decided(run_dir: RunDir) -> Decided | None:
    """What the attempt that has left its checkpoints here had settled."""
    try:
        return read_record(run_dir.decided, Decided)
    except (FileNotFoundError, ValueError):
        return None


def _forget(run_dir: RunDir, there: int, start: int) -> None:
    """Remove what earlier attempts have left here of steps after *start*, which this run makes anew and would take for
    newer than its own, and what need not be pushed as the output has step *there*."""
    for checkpoint in by_step(run_dir.checkpoints):
        if step_of(checkpoint) > start:
            remove_whole(checkpoint)
    for folder in waiting(run_dir.outbox):
        layout = layout_of(folder)
        if layout is None or not there < layout.step <= start:
            remove_whole(folder)
