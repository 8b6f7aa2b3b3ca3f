"""Several jobs at one output."""

import time

from tests.chaos.world import World
from tests.e2e.job import end


def at_once(world: World, count: int) -> str:
    """*count* machines start the same job at the same moment: exactly one commits."""
    began, processes = time.monotonic(), []
    for _ in range(count):
        world.move()
        processes.append(world.start(FAKE_STEP_S="0.3"))
    codes = sorted(end(process, began, 600).code for process in processes)

    assert codes.count(0) == 1, codes
    assert set(codes) == {0, 73}, codes
    attempts = {path.split("/")[1] for path in world.files if path.startswith("attempts/")}
    assert attempts == {"0001"}, attempts
    world.expect_the_calm_result()
    return f"0 and {count - 1} × 73"
