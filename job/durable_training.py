"""Training of which nothing is lost: its checkpoints go to the output while it runs, and whatever ends it early leaves
the newest one there."""

import contextlib
from collections.abc import Iterator

from job.attempts import Attempt
from job.deadline import Deadline, reserve_s
from job.durable import Durable
from job.early_end import EarlyEnd
from job.errors import Interrupted, JobError
from job.output import Output
from job.pusher import Pusher
from job.records import Plan, TrainResult, TrainTask
from job.run import Run
from job.training import train_within_memory

_HUB_PAUSE_S = 300.0  # between two checkpoints: each is a commit, of which a repository takes some 128 an hour


def train_durably(
    run: Run,
    plan: Plan,
    task: TrainTask,
    output: Output,
    attempt: Attempt,
    durable: list[Durable],
    deadline: Deadline | None,
) -> tuple[Plan, TrainResult, JobError | None]:
    """Train from the newest of *durable* on; the plan that held, the result, and what ended training before its last
    step, if something did.

    Raises:
        JobError: training failed, or had to be killed, and there is no result.
    """
    pusher = Pusher(run, attempt, [one.layout for one in durable], _HUB_PAUSE_S if output.on_hub else 0.0)

    def check() -> None:
        attempt.check()
        pusher.check()

    early = EarlyEnd(run.stop, run.spec.grace_s, deadline, lambda: reserve_s(run.live.measured), check)
    if early.notice() and early.error:  # not even a model need be loaded
        raise early.error
    run.stop.lift_limit()
    with _pushing(pusher, run, deadline):
        try:
            plan, result = train_within_memory(plan, task, run, early.notice)
        except Interrupted as error:  # the workers were killed at a deadline
            if early.error is None or isinstance(early.error, Interrupted):
                raise
            raise early.error from error
        if result.status == "stopped":
            pusher.flush(lambda: _until(run, deadline))
            signalled = Interrupted("A training process was told to stop, not by this job.")
            return plan, result, early.error or signalled
    run.background = pusher
    return plan, result, None


@contextlib.contextmanager
def _pushing(pusher: Pusher, run: Run, deadline: Deadline | None) -> Iterator[None]:
    """Whatever goes wrong, what waits to be pushed is pushed. When all has gone well the result itself comes first, and
    what waits is kept for the case that it cannot be published."""
    pusher.start()
    try:
        yield
    except BaseException:
        pusher.flush(lambda: _until(run, deadline))
        raise
    pusher.hold()


def _until(run: Run, deadline: Deadline | None) -> float:
    """When, by time.monotonic(), there is no more time for a checkpoint on its way; a signal may come meanwhile."""
    return min(run.grace_ends(), deadline.ends_at if deadline else float("inf"))
