"""Machines that go without notice."""

import time

from tests.chaos.world import STEPS, World, kill_tree

STEP_S = 0.5  # of steps that are made slow enough to be hit


def killed_once(world: World) -> str:
    """kill -9 of everything at a moment drawn by lot over the whole length of a run, of which training is made some
    third, then once more from the start; on a fresh machine or on the same, by lot too. The adapter is the
    uninterrupted run's, bit by bit."""
    reference = world.reference
    moment = world.lot.uniform(0.0, reference.seconds + STEPS * STEP_S)
    process = world.start(FAKE_STEP_S=str(STEP_S))
    time.sleep(moment)
    kill_tree(process)
    assert not world.processes_left(), "a process survived"
    durable = world.durable_steps()
    if world.lot.random() < 0.5:
        world.move()

    again = world.run()

    assert again.code == 0, again.shown
    assert world.adapter == reference.adapter, "another adapter than the uninterrupted run's"
    if durable and "only the upload is left" not in again.shown and "finished before" not in again.shown:
        assert f"from step {durable[-1]}" in again.shown, again.shown
    if "finished before" not in again.shown:
        assert world.losses == reference.losses, "other losses than the uninterrupted run's"
    left = f"step {durable[-1]} durable" if durable else "nothing durable"
    return f"killed after {moment:.1f} s, {left} → {again.code}"


def killed_in_every_attempt(world: World) -> str:
    """A crash loop: killed again and again before any step is durable. The fourth attempt is refused at its start."""
    for _ in range(3):
        process = world.start(JOB_SAVE_STEPS="1000", FAKE_STEP_S="0.5")
        while not world.has_trained(1)():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        kill_tree(process)
        world.move()

    refused = world.run()

    assert refused.code == 93, refused.shown
    assert "training:" not in refused.shown
    return "killed, killed, killed → 93"


def crashing_in_every_attempt(world: World) -> str:
    """The third attempt that fails without a new durable step says so itself."""
    codes = [world.run(FAKE_FAULT="SEGV@2", JOB_SAVE_STEPS="1000").code for _ in range(3)]

    assert codes == [81, 81, 93], codes
    assert world.run().code == 0, "a person who starts it once more gets another try"
    return "81, 81, 93; mended → 0"


def progress_between_crashes(world: World) -> str:
    """Four crashes, each after a new durable step, are no crash loop."""
    codes = [world.run(FAKE_FAULT=f"SEGV@{step}", JOB_SAVE_STEPS="2").code for step in (4, 6, 8, 10)]
    assert codes == [81] * 4, codes

    ended = world.run(JOB_SAVE_STEPS="2")

    assert ended.code == 0, ended.shown
    assert world.adapter == world.reference.adapter
    return "81, 81, 81, 81 → 0"
