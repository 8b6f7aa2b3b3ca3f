"""Machines that go without notice."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import psutil

from tests.chaos.world import SAVE_STEPS, STEPS, Moment, World, kill_tree, wait_until

STEP_S = 0.5  # of steps that are made slow enough to be hit
SAVE_S = 2.0  # of checkpoints
UPLOAD_S = 2.0  # of a request that is to be caught under way
START_S = STEPS * STEP_S  # in which no machine is through with all steps
PHASES = ("inspect", "plan", "prepare", "train", "publish")


@dataclass(frozen=True)
class Aim:
    """To be hit *delay_s* after *when* holds, in a run with these *settings*; requests to *slow*, a pattern, take
    `UPLOAD_S` longer. *missed* then says whether the moment is over."""

    text: str
    when: Moment = lambda: True
    delay_s: float = 0.0
    settings: dict[str, str] = field(default_factory=dict)
    slow: str = ""
    missed: Moment = lambda: False


def by_lot(world: World) -> Aim:
    """At a moment of the start, of training or of its end. It is drawn in steps and in seconds after them, so that it
    is the same on every machine."""
    lot = world.lot
    part = lot.choices((_in_the_start, _in_training, _at_the_end), weights=(3, 5, 2))[0]
    return part(world, lot)


def _in_the_start(world: World, lot: Random) -> Aim:
    seconds = lot.uniform(0.0, START_S)
    return Aim(f"{seconds:.1f} s after the start", delay_s=seconds, settings={"FAKE_STEP_S": str(STEP_S)})


def _in_training(world: World, lot: Random) -> Aim:
    step, part = lot.randint(1, STEPS - 1), lot.random()
    return Aim(
        f"step {step} and {part:.0%} of a step",
        world.has_trained(step),
        delay_s=part * STEP_S,
        settings={"FAKE_STEP_S": str(STEP_S)},
    )


def _at_the_end(world: World, lot: Random) -> Aim:
    """The result and its manifest are slow, one after the other, so that the job lives that long."""
    tenths = lot.randint(0, 30)
    slow = f"{world.prefix}/(adapter/|manifest.json)"
    return Aim(f"{tenths / 10} s after the last step", world.has_trained(STEPS), delay_s=tenths / 10, slow=slow)


def in_a_save(world: World) -> Aim:
    step = world.lot.randrange(SAVE_STEPS, STEPS, SAVE_STEPS)
    saving = world.is_saving(step)
    return Aim(
        f"in the save of step {step}", saving, settings={"FAKE_SAVE_S": str(SAVE_S)}, missed=lambda: not saving()
    )


def in_the_upload_of_a_checkpoint(world: World) -> Aim:
    step = world.lot.randrange(SAVE_STEPS, STEPS, SAVE_STEPS)
    return Aim(
        f"in the upload of step {step}",
        world.has_requested("PUT", f"checkpoints/step-{step:08d}/"),
        settings={"FAKE_STEP_S": "1.5"},  # so that no checkpoint is overtaken by the next one
        slow=f"{world.prefix}/checkpoints/",
        missed=world.is_durable(step),
    )


def in_the_upload_of_the_result(world: World) -> Aim:
    return Aim(
        "in the upload of the result",
        world.has_requested("PUT", "adapter/"),
        slow=f"{world.prefix}/adapter/",
        missed=lambda: "manifest.json" in world.files,
    )


def killed_once(world: World, aimed: Callable[[World], Aim]) -> str:
    """kill -9 of everything, then once more from the start; on a fresh machine or on the same, by lot. The result is
    the uninterrupted run's, bit by bit."""
    aim = aimed(world)
    shown = _hit(world, aim)
    durable, moved = world.durable_steps(), world.lot.random() < 0.5
    if moved:
        world.move()

    again = world.run()

    assert again.code == 0, again.shown
    world.expect_the_calm_result()
    _expect_the_newest(again.shown, durable, moved)
    left = f"step {durable[-1]} durable" if durable else "nothing durable"
    return f"killed {aim.text}, {_place(shown)}, {left} → {again.code} on {'another' if moved else 'the same'} machine"


def _hit(world: World, aim: Aim) -> str:
    """Run and kill as *aim* says; what the job had shown by then."""
    faults = world.stage.server.faults
    if aim.slow:
        faults.plan("slow", method="PUT", path=aim.slow, times=1000, seconds=UPLOAD_S)
    process = world.start(**aim.settings)
    wait_until(process, aim.when)
    time.sleep(aim.delay_s)
    shown = kill_tree(process)
    assert not aim.missed(), "the moment was over when it was killed"
    assert not world.processes_left(), "a process survived"
    if aim.slow:
        time.sleep(UPLOAD_S)  # what is under way arrives, as it would in any store, before another job looks
    faults.clear()
    return shown


def _place(shown: str) -> str:
    """The phase and the newest step that a job had *shown*."""
    phase = ["start", *(line for line in shown.splitlines() if line in PHASES)][-1]
    steps = re.findall(r"^  step (\d+)/", shown, re.MULTILINE)
    return f"in {phase}" + (f" behind step {steps[-1]}" if steps else "")


def _expect_the_newest(shown: str, durable: list[int], moved: bool) -> None:
    """Nothing that was durable is trained again. The same machine may have a newer checkpoint of its own."""
    if not durable or "only the upload is left" in shown or "finished before" in shown:
        return
    found = re.search(r"from step (\d+)", shown)
    assert found, f"it began anew, though step {durable[-1]} was durable: {shown}"
    step = int(found[1])
    assert step == durable[-1] or (step > durable[-1] and not moved), f"from step {step}, with {durable} durable"


def supervisor_alone(world: World) -> str:
    """kill -9 of the entrypoint's own process in training: the others notice, and leave the machine by themselves."""
    process = world.start(FAKE_STEP_S="2")
    wait_until(process, world.has_trained(2))
    process.kill()
    process.communicate()
    gone_s = _seconds_until_nothing_is_left(world, at_most_s=10.0)

    again = world.run()

    assert again.code == 0, again.shown
    world.expect_the_calm_result()
    return f"nothing left after {gone_s:.1f} s → 0"


def _seconds_until_nothing_is_left(world: World, at_most_s: float) -> float:
    """Raises:
    AssertionError: something still ran; it runs no more.
    """
    began = time.monotonic()
    while (left := world.processes_left()) and time.monotonic() - began < at_most_s:
        time.sleep(0.1)
    for process in left:
        psutil.Process(process).kill()
    assert not left, f"{len(left)} processes were left after {at_most_s:.0f} s"
    return time.monotonic() - began


def killed_in_every_attempt(world: World) -> str:
    """A crash loop: killed again and again before any step is durable. The fourth attempt is refused at its start."""
    for _ in range(3):
        process = world.start(JOB_SAVE_STEPS="1000", FAKE_STEP_S="0.5")
        wait_until(process, world.has_trained(1))
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
    world.expect_the_calm_result()
    return "81, 81, 81, 81 → 0"
