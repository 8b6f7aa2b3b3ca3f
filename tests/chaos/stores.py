"""Stores that fail, refuse, lie, or are slow."""

import json
import signal
import statistics
import time

from job.storage.s3_client import _READ_S
from tests.chaos.world import STEPS, World, wait_until
from tests.e2e.job import end
from tests.servers.faults import FOREVER

SLOW = {"FAKE_STEP_S": "0.4"}
HANGS = 3  # requests


def newest_checkpoint_is(world: World, damage: str) -> str:
    """The newest checkpoint truncated, with one bit flipped, or without its manifest: passed over, out loud, for the
    one before."""
    interrupted = world.signalled(signal.SIGTERM, world.is_durable(6), JOB_GRACE_S="0", **SLOW)
    assert interrupted.code == 75, interrupted.shown
    newest, before = world.durable_steps()[-1], world.durable_steps()[-2]
    _damage(world, f"checkpoints/step-{newest:08d}", damage)
    world.move()

    again = world.run()

    assert again.code == 0, again.shown
    assert f"the checkpoint of step {newest} is passed over" in again.shown
    assert f"from step {before}" in again.shown
    world.expect_the_calm_result()
    return f"75, step {newest} damaged → from step {before}, 0"


def _damage(world: World, folder: str, damage: str) -> None:
    server, name = world.stage.server, f"{folder}/{'manifest.json' if damage == 'no manifest' else 'optimizer.pt'}"
    data, key = world.files[name], f"{world.prefix}/{name}"
    match damage:
        case "truncated":
            server.put("bucket", key, data[:-7])
        case "bit-flipped":
            server.put("bucket", key, bytes([data[0] ^ 1]) + data[1:])
        case _:
            server.remove("bucket", key)


def some_requests_fail(world: World) -> str:
    """30 % of all requests are answered 503, cut off before or cut off after they were carried out, a third each; some
    more hang for longer than the client waits."""
    faults, before = world.stage.server.faults, len(world.stage.server.requests)
    faults.clear(world.stage.seed)
    faults.plan("hang", share=0.05, times=HANGS, seconds=_READ_S + 5)
    faults.plan(share=0.1, times=FOREVER)
    faults.plan("reset", share=0.1 / 0.9, times=FOREVER)  # of those that the one before has spared
    faults.plan("lost", share=0.1 / 0.8, times=FOREVER)
    ended = world.run()
    requests, struck = len(world.stage.server.requests) - before, dict(faults.struck)
    faults.clear()

    assert ended.code == 0, ended.shown
    world.expect_the_calm_result()
    assert struck.pop("hang", 0) == HANGS, "too few requests to hang some of them"
    told = ", ".join(f"{count} {'503' if kind == 'status' else kind}" for kind, count in sorted(struck.items()))
    return f"0 in spite of {told} and {HANGS} hanging of {requests} requests ({sum(struck.values()) / requests:.0%})"


def all_requests_fail(world: World) -> str:
    """At the start: 83, before any training."""
    world.stage.server.faults.plan(times=FOREVER)
    ended = world.run(AWS_MAX_ATTEMPTS="3")
    world.stage.server.faults.clear()

    assert ended.code == 83, ended.shown
    assert "training:" not in ended.shown
    again = world.run()
    assert again.code == 0, again.shown
    return "83 → 0"


def dies_at_the_final_upload(world: World) -> str:
    """84; the store returns, and the next run uploads without a step of training."""
    world.stage.server.faults.plan(method="PUT|POST", path=f"{world.prefix}/adapter/", times=FOREVER)
    ended = world.run(AWS_MAX_ATTEMPTS="3")
    world.stage.server.faults.clear()

    assert ended.code == 84, ended.shown
    again = world.run()
    assert again.code == 0, again.shown
    assert "training:" not in again.shown
    world.expect_the_calm_result()
    return "84 → 0 with no step trained"


def is_gone_after_training(world: World) -> str:
    """Every request fails once the last step is done: 84, said within a bounded time; then as above."""
    began = time.monotonic()
    process = world.start(AWS_MAX_ATTEMPTS="3")
    wait_until(process, world.has_trained(STEPS))
    world.stage.server.faults.plan(times=FOREVER)
    ended = end(process, began)
    world.stage.server.faults.clear()

    assert ended.code == 84, ended.shown
    again = world.run()
    assert again.code == 0, again.shown
    assert "training:" not in again.shown
    return "84 → 0 with no step trained"


def forbids_after_a_while(world: World) -> str:
    """403 on every write once step 3 is durable: the job stops rather than train what it may not keep."""
    server, began = world.stage.server, time.monotonic()
    process = world.start(**SLOW)
    wait_until(process, world.is_durable(3))
    server.faults.plan(method="PUT|POST|DELETE", path=world.prefix, times=FOREVER, status=403, code="AccessDenied")
    ended = end(process, began)
    server.faults.clear()

    assert ended.code == 77, ended.shown
    assert ended.outcome["last_durable_step"] == 3
    assert "manifest.json" not in world.files
    again = world.run()
    assert again.code == 0, again.shown
    world.expect_the_calm_result()
    return "77 → 0"


def another_spec_at_the_output(world: World) -> str:
    """Before a checkpoint is durable another spec takes the place; afterwards it is refused."""
    early = world.signalled(signal.SIGTERM, lambda: "run.json" in world.files)
    assert early.code == 75, early.shown
    other = {"JOB_SEED": "7", **SLOW}
    taken = world.signalled(signal.SIGTERM, world.is_durable(3), **other)
    assert taken.code == 75, taken.shown

    refused = world.run()
    assert refused.code == 73, refused.shown
    assert "JOB_SEED" in refused.outcome["cause"], refused.outcome
    assert refused.seconds < 10
    finished = world.run(**other)
    assert finished.code == 0, finished.shown
    assert len(world.result.losses) == STEPS
    return "75 (seed 42), 75 (seed 7), 73 (seed 42), 0 (seed 7)"


def slow_while_training(world: World, pairs: int = 5) -> str:
    """A store of 1 MB/s: training is as fast as with a fast one, in the median of interleaved pairs."""
    limits, ratios = {"slow": 1e6, "fast": FOREVER}, []
    for number in range(pairs):
        order = ("slow", "fast") if number % 2 else ("fast", "slow")  # machines grow slower and faster with time
        speeds = {kind: _speed(world, f"{number}-{kind}", limits[kind]) for kind in order}
        ratios.append(speeds["slow"] / speeds["fast"])

    ratio = statistics.median(ratios)
    assert ratio >= 0.98, ratios
    return f"0, {ratio:.3f} of the steps a second ({min(ratios):.3f}–{max(ratios):.3f})"


def _speed(world: World, name: str, bytes_per_s: float) -> float:
    one = World(world.stage, world.processes, f"{world.name}-{name}")
    world.stage.server.faults.bytes_per_s = bytes_per_s
    ended = one.run(JOB_MAX_STEPS="150", JOB_SAVE_STEPS="10", JOB_EVAL_STEPS="1000", FAKE_STEP_S="0.1")
    world.stage.server.faults.clear()
    assert ended.code == 0, ended.shown
    return float(json.loads(one.files["metrics.json"])["train"]["steps_per_s"])
