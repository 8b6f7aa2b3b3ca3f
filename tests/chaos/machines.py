"""Machines with too little disk, a wrong clock, too little time, or another number of processes."""

import signal

from tests.chaos.world import EVAL_STEPS, SAVE_STEPS, World, may_mount, small_disk
from tests.e2e.job import Ended

SLOW = {"FAKE_STEP_S": "0.4"}
LATE_S = 5.0  # for the last words of a run whose time is up


class Skipped(Exception):
    """This machine cannot try it; says why."""


def full_disk(world: World) -> str:
    """The disk fills up while checkpoints are written: 80 names the mount, and the last good checkpoint stays."""
    if not may_mount():
        raise Skipped("mounting a small file system needs root")
    with small_disk(world.work_dir, "64m"):
        ended = world.run(FAKE_FILL=str(world.work_dir / "ballast"), FAKE_FAULT="full@5", JOB_SAVE_STEPS="3")
    world.move()

    assert ended.code == 80, ended.shown
    assert str(world.stage.folder) in ended.outcome["cause"], ended.outcome
    assert world.durable_steps() == [3]
    again = world.run()
    assert again.code == 0, again.shown
    world.expect_the_calm_result()
    return "80 → 0"


def wrong_clock(world: World) -> str:
    """The machine's clock is 20 minutes off: said before anything is trained."""
    world.stage.server.ahead_s = 20 * 60
    try:
        ended = world.run()
    finally:
        world.stage.server.ahead_s = 0

    assert ended.code == 80, ended.shown
    assert "clock" in ended.outcome["cause"]
    return "80"


def deadline_in_training(world: World) -> str:
    """The time is up in training: the adapter as it is under partial/, 85, and with more time the run goes on."""
    limit_s = _long_enough(world)
    ended = world.run(JOB_MAX_HOURS=_hours(limit_s), FAKE_STEP_S="3", JOB_SAVE_STEPS="1000")

    assert ended.code == 85, ended.shown
    assert ended.seconds < limit_s + LATE_S, "later than it may be"
    assert {"partial/adapter_model.safetensors", "partial/metrics.json", "partial/manifest.json"} <= set(world.files)
    assert "manifest.json" not in world.files
    at_once = world.run(JOB_MAX_HOURS=_hours(limit_s / 2))
    assert (at_once.code, "training:" in at_once.shown) == (85, False), at_once.shown
    again = world.run(JOB_MAX_HOURS="1")
    assert again.code == 0, again.shown
    world.expect_the_calm_result()
    assert not any(path.startswith("partial/") for path in world.files)
    return "85 with partial/ → 85 at once → 0"


def deadline_in_evaluation(world: World) -> str:
    """The time is up in an evaluation that turns out far longer than those before: it is broken off, and what has been
    learned is kept."""
    limit_s = _long_enough(world)
    ended = world.run(JOB_MAX_HOURS=_hours(limit_s), FAKE_EVAL_S=f"4@{EVAL_STEPS}", JOB_SAVE_STEPS=str(EVAL_STEPS - 1))

    assert not world.has_logged("evaluation", EVAL_STEPS)(), "the evaluation ended before the time was up"
    return _goes_on(world, ended, limit_s)


def deadline_in_a_save(world: World) -> str:
    """The time is up while a checkpoint is written to a disk that has become slow: killed, and the one before stays."""
    limit_s, slow = _long_enough(world), 2 * SAVE_STEPS
    ended = world.run(JOB_MAX_HOURS=_hours(limit_s), FAKE_SAVE_S=f"600@{slow}")

    assert world.is_saving(slow)(), "the checkpoint was ready before the time was up"
    assert world.durable_steps() == [SAVE_STEPS], ended.shown
    return _goes_on(world, ended, limit_s)


def deadline_while_judged(world: World) -> str:
    """The time is up before the adapter has been judged: it is kept as unfinished, and with more time judged."""
    limit_s = _long_enough(world)
    ended = world.run(JOB_MAX_HOURS=_hours(limit_s), FAKE_JUDGE_S="600")

    assert (ended.code, ended.outcome["phase"]) == (85, "evaluate"), ended.shown
    assert ended.seconds < limit_s + LATE_S, "later than it may be"
    assert "partial/manifest.json" in world.files, ended.shown
    again = world.run(JOB_MAX_HOURS="1")
    assert again.code == 0, again.shown
    assert "yet to be judged" in again.shown, again.shown
    world.expect_the_calm_result()
    return "85 with partial/ → 0 with no step trained"


def deadline_in_the_final_upload(world: World) -> str:
    """The time is up while the result is uploaded: training is over, so the run ends as it should, a little later."""
    limit_s = _long_enough(world) + 15
    slow = f"{world.prefix}/(adapter/|manifest.json)"  # one after the other
    world.stage.server.faults.plan("slow", method="PUT", path=slow, times=1000, seconds=25)
    ended = world.run(JOB_MAX_HOURS=_hours(limit_s))

    assert ended.code == 0, ended.shown
    assert ended.seconds > limit_s, "it was over before the time was up"
    world.expect_the_calm_result()
    return f"0, {ended.seconds - limit_s:.0f} s after the time was up"


def _long_enough(world: World) -> float:
    """Seconds in which a run that nothing slows down would end on this machine. Training is told to stop some 12
    seconds before, so that it has begun by then."""
    return world.reference.seconds + 15


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.5f}"


def _goes_on(world: World, ended: Ended, limit_s: float) -> str:
    """After a deadline: in time, with something to show, and with more time the rest of the run."""
    assert ended.code == 85, ended.shown
    assert ended.seconds < limit_s + LATE_S, "later than it may be"
    kept = [f"step {step} durable" for step in world.durable_steps()[-1:]]
    kept += ["partial/"] if "partial/manifest.json" in world.files else []
    assert kept, ended.shown
    again = world.run(JOB_MAX_HOURS="1")
    assert again.code == 0, again.shown
    assert "from step" in again.shown, again.shown
    world.expect_the_calm_result()
    return f"85 with {' and '.join(kept)} → 0"


def deadline_between_slow_steps(world: World) -> str:
    """Steps that take longer than the time kept in reserve for everything else."""
    ended = world.run(JOB_MAX_HOURS=f"{90 / 3600:.5f}", FAKE_STEP_S="12", JOB_SAVE_STEPS="1000")

    assert ended.code == 85, ended.shown
    assert ended.seconds < 92, "later than it may be"
    assert "partial/manifest.json" in world.files, ended.shown
    return "85 with partial/"


def deadline_before_training(world: World) -> str:
    """The time is up while rows are prepared or the model is loaded."""
    ended = world.run(JOB_MAX_HOURS=f"{2 / 3600:.5f}")

    assert ended.code == 85, ended.shown
    assert not world.processes_left()
    again = world.run(JOB_MAX_HOURS="1")
    assert again.code == 0, again.shown
    world.expect_the_calm_result()
    return "85 → 0"


def budget(world: World) -> str:
    """JOB_MAX_COST at a price that allows for less than the run."""
    cost = f"{_long_enough(world):.0f}"  # one for each second
    ended = world.run(JOB_MAX_COST=cost, JOB_GPU_HOUR_PRICE="3600", FAKE_STEP_S="3", JOB_SAVE_STEPS="1000")

    assert ended.code == 85, ended.shown
    assert f"JOB_MAX_COST={cost}" in ended.outcome["cause"]
    assert "partial/manifest.json" in world.files
    return "85 with partial/"


def other_number_of_processes(world: World) -> str:
    """Begun with one number of processes, ended with another: the same data in the same order, without dropout."""
    world.settings |= {"JOB_LORA_DROPOUT": "0"}
    calm = World(world.stage, world.processes, f"{world.name}-calm", settings=world.settings)
    whole = calm.run()
    assert whole.code == 0, whole.shown
    interrupted = world.signalled(signal.SIGTERM, world.is_durable(6), **SLOW)
    assert interrupted.code == 75, interrupted.shown
    world.move()

    again = world.run(JOB_NUM_PROCESSES=str(3 - world.processes))

    assert again.code == 0, again.shown
    apart = max(abs(a - b) for a, b in zip(world.result.losses, calm.result.losses, strict=True))
    assert apart < 1e-5, apart
    return f"75 → 0 with {3 - world.processes}, losses {apart:.0e} apart"
