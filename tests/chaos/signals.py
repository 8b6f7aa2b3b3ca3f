"""Notice to leave: in each phase, with much time or none, once and twice, to the job and to one rank."""

import signal
import time

from tests.chaos.world import BUCKET, EVAL_STEPS, SAVE_STEPS, Moment, World, wait_until, workers
from tests.e2e.job import end

SLOW = {"FAKE_STEP_S": "0.4", "JOB_SAVE_STEPS": "1000"}  # nothing is durable but what the signal saves


def with_grace(world: World, grace_s: str) -> str:
    """SIGTERM in training. With time for it a checkpoint is durable; without, the last durable one is pointed to.
    Either way another machine ends with the uninterrupted run's adapter."""
    ended = world.signalled(signal.SIGTERM, world.has_trained(4), JOB_GRACE_S=grace_s, **SLOW)

    assert ended.code == 75, ended.shown
    assert not world.processes_left(), "a process survived"
    durable = world.durable_steps()
    assert ended.outcome["last_durable_step"] == (durable[-1] if durable else None)
    if float(grace_s) >= 5:
        assert len(durable) == 1, ended.shown
        assert durable[0] >= 4
    else:
        assert durable == []
    world.move()
    again = world.run()
    assert again.code == 0, again.shown
    world.expect_the_calm_result()
    return f"75 with {f'step {durable[0]}' if durable else 'nothing new'} durable → 0"


def in_phase(world: World, phase: str) -> str:
    """SIGTERM while inputs are fetched, rows prepared, steps trained, rows evaluated, a checkpoint saved, the adapter
    judged or the result uploaded: 75, or 0 where all was done within the grace. The next run ends with 0 and the same
    result."""
    settings, when = _moment(world, phase)
    ended = world.signalled(signal.SIGTERM, when, **settings)
    world.stage.server.faults.clear()

    assert ended.code in ((0, 75) if phase == "upload" else (75,)), ended.shown
    if phase in ("download", "prepare"):
        assert ended.seconds < 6, f"it took {ended.seconds:.1f} s to leave"
        assert ended.outcome["phase"] == {"download": "plan", "prepare": "prepare"}[phase], ended.outcome
    if phase == "eval":
        assert world.durable_steps() == [EVAL_STEPS], ended.shown
        assert not world.has_logged("evaluation", EVAL_STEPS)(), "the evaluation was over before it could be left"
        assert world.steps_logged("evaluation_begin").count(EVAL_STEPS) == 1, "it was begun again"
    if phase == "save":
        assert world.durable_steps()[-1] >= 2 * SAVE_STEPS, ended.shown
    if phase == "judge":
        assert ended.outcome["phase"] == "evaluate", ended.outcome
        assert ended.seconds < 10, f"it took {ended.seconds:.1f} s to leave"
    assert not world.processes_left(), "a process survived"
    again = world.run()
    assert again.code == 0, again.shown
    if phase == "judge":
        assert "training:" not in again.shown, "it was trained again"
    world.expect_the_calm_result()
    durable = f" with step {ended.outcome['last_durable_step']} durable" if phase in ("train", "eval", "save") else ""
    return f"{ended.code} in {ended.outcome['phase']}{durable} → 0"


def _moment(world: World, phase: str) -> tuple[dict[str, str], Moment]:
    server = world.stage.server
    match phase:
        case "download":
            place = f"{world.prefix}-rows"
            lines = world.stage.rows.read_bytes().splitlines(keepends=True)
            for number in range(0, len(lines), 2):  # more files than are fetched at a time
                server.put(BUCKET, f"{place}/{number:03d}.jsonl", b"".join(lines[number : number + 2]))
            server.faults.plan("slow", method="GET", path=rf"{place}/\d", times=1000, seconds=1.0)
            world.settings["JOB_DATASET_URI"] = f"s3://{BUCKET}/{place}"
            # The first byte of the first file is read before, to see that it can be.
            return {}, lambda: sum(one.method == "GET" and place in one.path for one in list(server.requests)) > 2
        case "prepare":
            return {}, lambda: "plan" in world.events()  # made: the rows are next
        case "train":
            return SLOW, world.has_trained(2)
        case "eval":
            # 13 batches on one process, 7 on each of two: either way longer than the grace.
            slow = {"FAKE_EVAL_S": f"3@{EVAL_STEPS}", "JOB_GRACE_S": "15", "JOB_SAVE_STEPS": "1000"}
            return slow, world.has_logged("evaluation_begin", EVAL_STEPS)
        case "save":
            return {"FAKE_SAVE_S": "2", "JOB_GRACE_S": "60"}, world.is_saving(2 * SAVE_STEPS)
        case "judge":
            return {"FAKE_JUDGE_S": "60"}, lambda: any(world.work_dir.glob("runs/*/made.json"))
        case _:
            server.faults.plan("slow", method="PUT", path=f"{world.prefix}/adapter/", times=1000, seconds=2.0)
            return {}, world.has_requested("PUT", "adapter/")


def second_signal(world: World) -> str:
    """SIGTERM, then SIGINT and SIGTERM while the job ends: nothing is corrupted."""
    began = time.monotonic()
    process = world.start(**SLOW)
    wait_until(process, world.has_trained(3))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
        time.sleep(0.3)
    ended = end(process, began)

    assert ended.code == 75, ended.shown
    assert world.durable_steps(), ended.shown
    assert not world.processes_left()
    again = world.run()
    assert again.code == 0, again.shown
    world.expect_the_calm_result()
    return "75 → 0"


def one_rank(world: World) -> str:
    """SIGTERM to the last rank's own process, not to the job: all ranks stop at the same step."""
    began = time.monotonic()
    process = world.start(**SLOW)
    wait_until(process, world.has_trained(3))
    keeper = workers(world)[-1].parent()
    assert keeper is not None
    keeper.send_signal(signal.SIGTERM)
    ended = end(process, began)

    assert ended.code == 75, ended.shown
    assert world.durable_steps(), ended.shown
    again = world.run()
    assert again.code == 0, again.shown
    world.expect_the_calm_result()
    return "75 → 0"
