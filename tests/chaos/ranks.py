"""Ranks that hang or die."""

import re
import signal
import time

from tests.chaos.world import World, wait_until, workers
from tests.e2e.job import end


def stopped(world: World) -> str:
    """SIGSTOP of one rank: found by its silence."""
    began = time.monotonic()
    process = world.start(JOB_HANG_TIMEOUT_S="5", FAKE_STEP_S="0.2")
    wait_until(process, world.is_durable(3))
    workers(world)[-1].send_signal(signal.SIGSTOP)
    ended = end(process, began)

    assert ended.code == 82, ended.shown
    assert "stopped" in ended.outcome["cause"], ended.outcome
    return _goes_on(world, ended.code)


def never_comes_back(world: World) -> str:
    """A rank that sits in a call for ever: the stacks say where."""
    ended = world.run(JOB_HANG_TIMEOUT_S="5", FAKE_FAULT="deaf@5")

    assert ended.code == 82, ended.shown
    assert any("stack" in path for path in world.files), "no stacks in the output"
    return _goes_on(world, ended.code)


def ignores_the_stop_file(world: World) -> str:
    """SIGTERM to a job whose worker does not look up: killed when the grace is over."""
    ended = world.signalled(
        signal.SIGTERM, world.is_durable(3), JOB_GRACE_S="4", FAKE_FAULT="deaf@5", JOB_HANG_TIMEOUT_S="60"
    )

    assert ended.code == 75, ended.shown
    return _goes_on(world, ended.code)


def crashes(world: World, number: str, expected: int) -> str:
    """One rank dies of a signal: translated, within seconds and with no process left."""
    last = str(world.processes - 1)
    ended = world.run(FAKE_FAULT=f"{number}@5@{last}")

    assert ended.code == expected, ended.shown
    return _goes_on(world, ended.code)


def _goes_on(world: World, code: int) -> str:
    assert not world.processes_left(), "a process survived"
    again = world.run()
    assert again.code == 0, again.shown
    assert re.search(r"going on from step ([3-9]|1\d)\n", again.shown), again.shown
    world.expect_the_calm_result()
    return f"{code} → 0"
