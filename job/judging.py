"""What has been trained is judged by a process that had no part in it, and waits on this machine until it is."""

import contextlib
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from job.deadline import Deadline, publishing_s
from job.events import EventTail
from job.launch import launch_env
from job.own_rundir import is_unjudged
from job.processes import Child
from job.records import EvaluateTask, Judgement, TrainTask
from job.report.made import Made
from job.run import Run
from job.rundir import read_record, write_json

_MADE: TypeAdapter[Made] = TypeAdapter(Made)


def keep(run: Run, made: Made, task: TrainTask) -> None:
    """Leave *made*, whose adapter is in RunDir, for the judgement, be it in a later attempt."""
    write_json(run.dir.evaluate_task, EvaluateTask(train=task, plan=made.plan, adapter=run.dir.adapter))
    write_json(run.dir.made, _MADE.dump_python(made, mode="json"))


def kept(run: Run) -> Made | None:
    """What an earlier attempt on this machine has trained and could not have judged, if all that it takes is here."""
    if not is_unjudged(run.dir, run.spec):
        return None
    with contextlib.suppress(FileNotFoundError, ValidationError):  # another version's
        made = _MADE.validate_json(run.dir.made.read_bytes())
        task = read_record(run.dir.evaluate_task, EvaluateTask)
        folders = [task.train.model_path, task.train.data_path, task.adapter]
        folders += [task.train.start.path] if task.train.start else []
        if all(map(_is_here, folders)) and run.dir.proof_logits.exists():
            return replace(made, spec=run.spec)
    run.dir.made.unlink()
    return None


def ask_of(run: Run, rows: Path | None) -> None:
    """Have what was kept judged by the present settings, with the held-out rows among *rows*, if there are any."""
    write_json(run.dir.spec, run.spec)
    if rows:
        task = read_record(run.dir.evaluate_task, EvaluateTask)
        train = task.train.model_copy(update={"data_path": rows.absolute()})
        write_json(run.dir.evaluate_task, task.model_copy(update={"train": train}))


def _is_here(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def judge(run: Run, made: Made, deadline: Deadline | None) -> Judgement:
    """What ``job.evaluate`` finds in a process of its own.

    Raises:
        DeadlineReached: only the time for publishing is left.
        Interrupted: a signal arrived.
        JobError: it could not be judged.
    """
    run.dir.judgement.unlink(missing_ok=True)
    if deadline:
        run.stop.limit(deadline.ends_at - publishing_s(run.live.measured), deadline.error())
    try:
        run.stop.check()
        env = launch_env(made.plan, run.shop.env, run.dir)
        events = EventTail(run.dir.log)
        child = Child("job.evaluate", [run.dir.root], run.dir.evaluate_error, run.dir.evaluate_log, env)
        child.wait(run.stop, lambda: _tell(run, events))
    finally:
        run.stop.lift_limit()
    return read_record(run.dir.judgement, Judgement)


def _tell(run: Run, events: EventTail) -> None:
    for event in events.new():
        run.hear(event)
