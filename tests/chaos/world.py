"""What every fault is tried on: a tiny model, real rows, an S3 store in this process, and jobs started as a user would.

A job here takes a second or two of training and some ten of start-up on two cores.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import psutil

from job.checkpoints import LAYOUT
from tests.e2e.job import Ended, end, start
from tests.servers.s3_server import ACCESS_KEY, REGION, SECRET_KEY, S3Server
from tests.tiny import ROOT, write_model, write_rows

BUCKET = "bucket"
ROWS, EVAL_FRACTION = 118, "0.3"  # 92 rows are trained on and 26 held out, by their hash
STEPS = 16  # of which the 12th, the last one of an epoch, is short
SAVE_STEPS = 3
EVAL_STEPS = 4
PATIENCE_S = 300.0

Moment = Callable[[], bool]


@dataclass(frozen=True)
class Stage:
    """What all worlds share: the store, a model, rows, and the seed of all that is drawn by lot."""

    folder: Path
    server: S3Server
    seed: int

    @cached_property
    def rows(self) -> Path:
        return write_rows(self.folder / "rows.jsonl", ROWS)

    @cached_property
    def model(self) -> Path:
        return write_model(self.folder / "model", self.rows)

    @cached_property
    def references(self) -> "dict[int, Reference]":
        return {}


@dataclass(frozen=True)
class Result:
    """What has to come out the same, bit by bit, whatever happens on the way."""

    adapter: str  # SHA-256 of adapter_model.safetensors
    losses: list[float]
    evaluations: list[dict[str, float]]  # step and values, without times


@dataclass(frozen=True)
class Reference:
    """A run that nothing happened to."""

    result: Result
    seconds: float


@dataclass
class World:
    """One output and the machines that work on it, with jobs of *processes* processes."""

    stage: Stage
    processes: int
    name: str
    machine: int = 0
    settings: dict[str, str] = field(default_factory=dict)
    started: "list[subprocess.Popen[str]]" = field(default_factory=list)

    @cached_property
    def lot(self) -> random.Random:
        return random.Random(f"{self.stage.seed} {self.name} {self.processes}")

    @property
    def prefix(self) -> str:
        return f"{self.name}-{self.processes}"

    @property
    def work_dir(self) -> Path:
        return self.stage.folder / f"{self.prefix}-machine{self.machine}"

    def move(self) -> None:
        """From now on jobs run on a fresh machine."""
        self.machine += 1

    @property
    def env(self) -> dict[str, str]:
        server = self.stage.server
        return {
            "AWS_ENDPOINT_URL": server.url, "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true", "OMP_NUM_THREADS": "1",
            "AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
            "PYTHONPATH": str(ROOT / "tests" / "fakes" / "faults"),
            "JOB_MODEL": str(self.stage.model), "JOB_DATASET_URI": str(self.stage.rows),
            "JOB_COLUMNS": "prompt=question,completion=answer", "JOB_PACKING": "false", "JOB_MAX_LENGTH": "256",
            "JOB_OUTPUT_URI": f"s3://{BUCKET}/{self.prefix}", "JOB_WORK_DIR": str(self.work_dir),
            "JOB_NUM_PROCESSES": str(self.processes), "JOB_GLOBAL_BATCH_SIZE": "8", "JOB_MAX_STEPS": str(STEPS),
            "JOB_LEARNING_RATE": "5e-3", "JOB_SAVE_STEPS": str(SAVE_STEPS), "JOB_LOGGING_STEPS": "1",
            "JOB_LORA_DROPOUT": "0.1", "JOB_PER_DEVICE_TRAIN_BATCH_SIZE": "2",
            "JOB_EVAL_FRACTION": EVAL_FRACTION, "JOB_EVAL_STEPS": str(EVAL_STEPS),
        } | self.settings  # fmt: skip

    def start(self, **settings: str) -> "subprocess.Popen[str]":
        self.started.append(start(self.env | settings))
        return self.started[-1]

    def run(self, **settings: str) -> Ended:
        began = time.monotonic()
        return end(self.start(**settings), began, PATIENCE_S)

    def signalled(self, number: signal.Signals, when: Moment, **settings: str) -> Ended:
        """Run, and send *number* to the job once *when* holds; ``seconds`` count from then on."""
        process = self.start(**settings)
        wait_until(process, when)
        process.send_signal(number)
        return end(process, time.monotonic(), PATIENCE_S)

    @property
    def files(self) -> dict[str, bytes]:
        """The output."""
        head = f"{self.prefix}/"
        return {key.removeprefix(head): data for key, data in self.stage.server.keys(BUCKET, head).items()}

    def clear(self) -> None:
        """Leave nothing: no process of a fault that was not stood, no object for the others to be slowed down by."""
        for process in self.started:
            if process.poll() is None:
                kill_tree(process)
        for path in self.files:
            self.stage.server.remove(BUCKET, f"{self.prefix}/{path}")

    @property
    def result(self) -> Result:
        metrics = json.loads(self.files["metrics.json"])
        adapter = hashlib.sha256(self.files["adapter/adapter_model.safetensors"]).hexdigest()
        losses = [entry["values"]["loss"] for entry in metrics["train"]["history"]]
        return Result(adapter, losses, [_without_times(entry) for entry in metrics["eval"]["history"]])

    def expect_the_calm_result(self) -> None:
        """Raises:
        AssertionError: adapter, losses or evaluations are not those of a run that nothing happened to, bit by bit.
        """
        mine, calm = self.result, self.reference.result
        assert mine.losses == calm.losses, f"other losses than the uninterrupted run's: {mine.losses}, {calm.losses}"
        assert mine.evaluations == calm.evaluations, f"other evaluations: {mine.evaluations}, {calm.evaluations}"
        assert mine.adapter == calm.adapter, "another adapter than the uninterrupted run's"

    def durable_steps(self) -> list[int]:
        """The checkpoints that have a manifest, oldest first."""
        manifests = (PurePosixPath(path) for path in self.files if path.startswith("checkpoints/"))
        return sorted(int(path.parent.name.removeprefix("step-")) for path in manifests if path.name == "manifest.json")

    def is_durable(self, step: int) -> Moment:
        return lambda: step in self.durable_steps()

    def has_logged(self, kind: str, step: int) -> Moment:
        """Whether the log has the event *kind* of *step* or a later one."""
        return lambda: any(logged >= step for logged in self.steps_logged(kind))

    def steps_logged(self, kind: str) -> list[int]:
        """The steps of the events *kind* that the log has."""
        return [event["step"] for event in self._log() if event["event"] == kind]

    def events(self) -> list[str]:
        """The kinds of all events that the log has."""
        return [event["event"] for event in self._log()]

    def _log(self) -> list[dict[str, Any]]:
        logs = self.work_dir.glob("runs/*/log.jsonl")
        return [json.loads(line) for log in logs for line in log.read_text().splitlines()]

    def has_trained(self, step: int) -> Moment:
        """Whether the log says that *step* is done."""
        return self.has_logged("train", step)

    def is_saving(self, step: int) -> Moment:
        """Whether the checkpoint of *step* is being written, and not vouched for yet."""

        def look() -> bool:
            folders = list(self.work_dir.glob(f"runs/*/checkpoints/checkpoint-{step}"))
            return any(not (folder / LAYOUT).exists() for folder in folders)

        return look

    def has_requested(self, method: str, path: str) -> Moment:
        """Whether the store has been asked to do *method* with something of this output whose path begins with
        *path*."""
        start = f"/{BUCKET}/{self.prefix}/{path}"

        def look() -> bool:
            requests = list(self.stage.server.requests)
            return any(request.method == method and request.path.startswith(start) for request in requests)

        return look

    def processes_left(self) -> list[int]:
        """The ids of processes whose command lines know this world's folder."""
        return [pid for pid, line in _command_lines() if str(self.work_dir) in line]

    @property
    def reference(self) -> Reference:
        """The run that nothing happens to, with the same settings."""
        known = self.stage.references
        if self.processes not in known:
            calm = World(self.stage, self.processes, "calm")
            ended = calm.run()
            assert ended.code == 0, ended.shown
            known[self.processes] = Reference(calm.result, ended.seconds)
        return known[self.processes]


def _without_times(entry: dict[str, Any]) -> dict[str, float]:
    values = {name: value for name, value in entry["values"].items() if not name.endswith(("_runtime", "_per_second"))}
    return {"step": entry["step"]} | values


def wait_until(process: "subprocess.Popen[str]", when: Moment, timeout_s: float = PATIENCE_S) -> None:
    began = time.monotonic()
    while not when():
        assert process.poll() is None, f"ended before the moment came: {process.communicate()}"
        assert time.monotonic() - began < timeout_s, "the moment never came"
        time.sleep(0.02)


def kill_tree(process: "subprocess.Popen[str]") -> str:
    """As when the machine goes: everything at once, without notice. Each is stopped before its children are listed, so
    that none is born meanwhile. Returns what the job had shown.

    Raises:
        AssertionError: it had ended by itself before.
    """
    process.send_signal(signal.SIGSTOP)
    assert process.poll() is None, f"it had ended with {process.returncode} before it was killed"
    doomed = [psutil.Process(process.pid)]
    for parent in doomed:
        with suppress(psutil.NoSuchProcess):
            parent.suspend()
            doomed += parent.children()
    for each in doomed:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    _, shown = process.communicate()
    psutil.wait_procs(doomed, timeout=5)
    return shown


def workers(world: World) -> list[psutil.Process]:
    """The processes that train, rank 0 first: those whose ids are in the files they keep fresh."""
    beats = sorted(world.work_dir.glob("runs/*/beats/rank*"))
    return [psutil.Process(int(beat.read_text())) for beat in beats]


def _command_lines() -> Iterator[tuple[int, str]]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            yield process.pid, " ".join(process.cmdline())


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of *size* at *folder*; needs the right to mount."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def may_mount() -> bool:
    return os.geteuid() == 0


def as_json(data: bytes) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(data)
    return loaded
