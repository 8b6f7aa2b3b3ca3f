"""``python -m tests.chaos.figures``: what durability costs on this machine."""

import json
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.world import BUCKET, Stage, World, wait_until
from tests.e2e.job import end
from tests.servers.s3_server import S3Server

PAIRS = 5
STEPS = 200


@dataclass(frozen=True)
class Timed:
    """A run of the job, with the wall-clock moments of its start and end and its log."""

    started: float
    ended: float
    events: list[dict[str, Any]]

    def at(self, event: str) -> float:
        return next(float(one["time"]) for one in self.events if one["event"] == event)

    @property
    def first_step_s(self) -> float:
        """From the start of the job to the end of its first step."""
        return self.at("first_step") - self.started

    @property
    def after_last_step_s(self) -> float:
        last = max(float(one["time"]) for one in self.events if one["event"] == "train")
        return self.ended - last


def timed(world: World, **settings: str) -> Timed:
    began = time.time()
    ended = world.run(**settings)
    assert ended.code == 0, ended.shown
    newest = max(path for path in world.files if path.endswith("log.jsonl"))
    events = [json.loads(line) for line in world.files[newest].decode().splitlines()]
    return Timed(began, began + ended.seconds, events)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, S3Server() as server:
        server.make_bucket(BUCKET)
        stage = Stage(Path(folder), server, seed=20)
        for name, goal, values in figures(stage):
            spread = f"{min(values):.3f}–{max(values):.3f}"
            print(f"| {name} | {goal} | {statistics.median(values):.3f} | {spread} of {len(values)} |", flush=True)


def figures(stage: Stage) -> Iterator[tuple[str, str, list[float]]]:
    long = {"JOB_MAX_STEPS": str(STEPS), "JOB_SAVE_STEPS": "20", "JOB_EVAL_STEPS": "1000", "FAKE_STEP_S": "0.1"}
    stalls, tails = [], []
    for number in range(PAIRS):
        run = timed(World(stage, 1, f"stall{number}"), **long)
        waited = sum(event["seal_s"] for event in run.events if event["event"] == "checkpoint")
        stalls.append(waited / (run.at("train_end") - run.at("train_begin")))
        tails.append(run.after_last_step_s - _upload_s(stage, f"stall{number}-1"))
    yield "checkpoint stall beyond the local write, share of training", "≤ 0.005", stalls
    yield "last step → exit less the upload, s", "≤ 2", tails
    yield "resume → first step less cold start → first step, s", "≤ 2", [_resume_s(stage, n) for n in range(PAIRS)]
    yield "SIGTERM → checkpoint durable, s", "≤ 5", [_notice_s(stage, number) for number in range(PAIRS)]


def _upload_s(stage: Stage, prefix: str) -> float:
    """From the first request for the result to the one that makes its manifest."""
    times = [request.time for request in stage.server.requests if f"/{prefix}/adapter/" in request.path]
    last = [request.time for request in stage.server.requests if request.path.endswith(f"/{prefix}/manifest.json")]
    return max(last) - min(times)


def _resume_s(stage: Stage, number: int) -> float:
    cold = timed(World(stage, 1, f"cold{number}"))
    world = World(stage, 1, f"resumed{number}")
    world.signalled(signal.SIGTERM, world.is_durable(3), FAKE_STEP_S="0.3")
    return timed(world).first_step_s - cold.first_step_s


def _notice_s(stage: Stage, number: int) -> float:
    world = World(stage, 1, f"notice{number}")
    process, began = world.start(JOB_SAVE_STEPS="1000", FAKE_STEP_S="0.3"), time.monotonic()
    wait_until(process, world.has_trained(2))
    process.send_signal(signal.SIGTERM)
    notice = time.monotonic()
    wait_until(process, lambda: bool(world.durable_steps()))
    durable_s = time.monotonic() - notice
    assert end(process, began).code == 75
    return durable_s


if __name__ == "__main__":
    main()
