"""Ranks that fail, hang or do not obey: real processes with the signs of life of real ranks, under a small launcher."""

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from job import launch
from job.console import Console
from job.errors import BadData, Bug, GpuFault, Hang, Interrupted, JobError, OutOfMemory, UnsuitableHost
from job.processes import StopRequest, adopt_orphans
from job.records import Plan, StopNotice, TrainTask
from job.redact import redactor
from job.run import Run
from job.rundir import RunDir, read_record, write_json
from job.spec import JobSpec
from job.training import train_within_memory
from tests.tiny import ROOT
from tests.unit.test_checkpoints import write as write_checkpoint

PLAN = Plan(
    strategy="ddp", num_processes=2, precision="bf16", per_device_train_batch_size=1, gradient_accumulation_steps=1,
    global_batch_size=2, packing=False, gradient_checkpointing=True, max_length=8, use_gpu=False, reasons={},
)  # fmt: skip


@pytest.fixture(autouse=True)
def small_launcher(monkeypatch) -> Iterator[None]:
    adopt_orphans()
    monkeypatch.setattr(
        launch,
        "launch_command",
        lambda plan, run_dir: [
            sys.executable, "-m", "tests.fakes.ranks", str(run_dir.root), str(plan.num_processes),
        ],
    )  # fmt: skip
    yield
    assert psutil.Process().children(recursive=True) == []


class Training:
    """Runs two ranks, and does *act* with them once both show life."""

    def __init__(self, root: Path) -> None:
        self.run_dir, self._acted = RunDir(root), False
        self.notice: StopNotice | None = None
        self.seconds = 0.0  # from the act to the end

    def pid(self, rank: int) -> int:
        return int(self.run_dir.beat(rank).read_text())

    def run(self, act: Callable[[], object] = lambda: None, timeout: float = 60.0, **fake: object) -> None:
        def watch() -> None:
            alive = [path for path in self.run_dir.beat(0).parent.glob("*") if path.read_text()]
            if not self._acted and len(alive) == 2:
                self._acted, self.seconds = True, time.monotonic()
                act()

        env = os.environ | {"PYTHONPATH": str(ROOT)} | {f"FAKE_{name}": str(value) for name, value in fake.items()}
        try:
            launch.run_training(PLAN, self.run_dir, env, timeout, lambda: self.notice, watch)
        finally:
            self.seconds = time.monotonic() - self.seconds

    def fail(self, act: Callable[[], object] = lambda: None, timeout: float = 60.0, **fake: object) -> JobError:
        with pytest.raises(JobError) as raised:
            self.run(act, timeout, **fake)
        return raised.value

    def stop(self, grace_s: float) -> None:
        self.notice = StopNotice(reason="SIGTERM arrived.", deadline=time.monotonic() + grace_s)


@pytest.fixture
def training(tmp_path) -> Training:
    return Training(tmp_path / "run")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (signal.SIGSEGV, GpuFault),
        (signal.SIGABRT, GpuFault),
        (signal.SIGBUS, UnsuitableHost),
        (signal.SIGKILL, GpuFault),
    ],
    ids=str,
)
def test_a_rank_that_dies_ends_the_others_at_once_and_is_told_by_its_signal(training, number, kind):
    error = training.fail(lambda: os.kill(training.pid(1), number))

    assert type(error) is kind
    assert error.cause.startswith(f"Rank 1 was ended by {number.name}")
    assert training.seconds < 5


def test_the_rank_that_died_is_named_although_its_peer_is_faster_to_report_the_loss(training):
    error = training.fail(lambda: os.kill(training.pid(1), signal.SIGSEGV), WATCHES=0, CORE_S=1.5)

    assert error.cause.startswith("Rank 1 was ended by SIGSEGV")


def test_a_rank_that_vanishes_with_its_keeper_is_noticed_although_the_launcher_waits(training):
    def vanish() -> None:
        rank = psutil.Process(training.pid(1))
        keeper = rank.parent()
        keeper.suspend()  # so that it does not see its child go
        rank.kill()
        keeper.kill()

    error = training.fail(vanish)

    assert error.cause.startswith("Rank 1 vanished without a trace")
    assert training.seconds < 8


def test_a_rank_that_reports_an_error_gives_the_cause(training):
    error = training.fail(RAISES=1)

    assert (type(error), error.cause) == (BadData, "row 3 is broken")
    assert "Traceback" in error.__notes__[0]


def test_a_rank_that_leaves_without_a_report_is_a_bug_with_its_last_words(training):
    error = training.fail(LEAVES=1)

    assert type(error) is Bug
    assert error.cause == "Rank 1 ended with status 3 and no report: the library left"


def test_a_stopped_rank_hangs_and_is_known_to_be_stopped(training):
    error = training.fail(lambda: os.kill(training.pid(1), signal.SIGSTOP), timeout=2.0)

    assert type(error) is Hang
    assert error.cause.startswith("Rank 1 has shown no sign of life for ")
    assert "its process is stopped" in error.cause
    assert training.seconds < 8


def test_a_rank_that_is_stuck_is_named_with_the_place_and_all_stacks_are_kept(training):
    error = training.fail(timeout=2.0, STUCK=1)

    assert type(error) is Hang
    assert "Rank 1" in error.cause
    assert "it stood in stuck (" in error.cause
    assert "in train" in training.run_dir.stack(0).read_text()


def test_a_rank_that_the_kernel_killed_for_memory_is_told_from_one_that_somebody_killed(
    training, monkeypatch, tmp_path
):
    monkeypatch.setattr(launch, "oom_kills", lambda: 5)  # of earlier attempts in the same container
    by_hand = training.fail(DIES=1)
    monkeypatch.setattr(launch, "oom_kills", itertools.count(5).__next__)
    by_kernel = Training(tmp_path / "again").fail(DIES=1)

    assert type(by_hand) is GpuFault
    assert type(by_kernel) is OutOfMemory
    assert by_kernel.of_host


def run_in(folder: Path, **fake: object) -> tuple[Run, TrainTask]:
    task = TrainTask(model_path=folder, data_path=folder, base_model_name="m", base_model_revision=None, has_eval=False)
    env = os.environ | {"PYTHONPATH": str(ROOT)} | {f"FAKE_{name}": str(value) for name, value in fake.items()}
    spec = JobSpec(model="org/m", output_uri=("/out",), work_dir=folder)
    run = Run(spec, env, Console(sys.stderr, redactor({})), StopRequest())
    run.dir.root.mkdir(parents=True)
    return run, task


def test_a_host_without_memory_is_not_given_a_smaller_plan_for_the_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(launch, "oom_kills", itertools.count().__next__)
    run, task = run_in(tmp_path, DIES=1)
    larger = PLAN.model_copy(update={"per_device_train_batch_size": 4})

    with pytest.raises(OutOfMemory, match="the container's memory ran out"):
        train_within_memory(larger, task, run, lambda: None)

    assert read_record(run.dir.plan, Plan) == larger


@pytest.mark.parametrize(("has_checkpoint", "ends_as"), [(True, "ddp"), (False, "fsdp")])
def test_steps_that_are_saved_are_not_given_up_for_a_strategy_that_cannot_read_them(tmp_path, has_checkpoint, ends_as):
    run, task = run_in(tmp_path, FULL=1)
    if has_checkpoint:
        write_checkpoint(run.dir.checkpoints, "ddp")

    with pytest.raises(OutOfMemory, match="GPU memory ran out"):
        train_within_memory(PLAN, task, run, lambda: None)

    assert read_record(run.dir.plan, Plan).strategy == ends_as


def test_ranks_that_end_after_a_notice_end_well(training):
    training.run(lambda: training.stop(30))

    assert read_record(training.run_dir.stop, StopNotice) == training.notice
    assert training.seconds < 5


def test_a_rank_that_does_not_obey_is_killed_at_the_deadline(training):
    error = training.fail(lambda: training.stop(1.5), DEAF=1)

    assert type(error) is Interrupted
    assert error.cause == "SIGTERM arrived. The training processes did not stop in time."
    assert 1.5 <= training.seconds < 4


def test_the_notice_of_a_rank_that_got_the_signal_itself_holds_for_all(training):
    def signalled() -> None:
        deadline = time.monotonic() + 1.5
        write_json(training.run_dir.stop, StopNotice(reason="SIGTERM came to a rank.", deadline=deadline))

    error = training.fail(signalled, DEAF=1)

    assert type(error) is Interrupted
    assert training.seconds < 4


def test_a_launcher_that_the_same_signal_ended_is_no_fault(training):
    def signal_everybody() -> None:
        training.stop(30)
        psutil.Process().children()[0].kill()

    error = training.fail(signal_everybody, DEAF=1)

    assert type(error) is Interrupted


def test_ranks_that_went_with_their_launcher_are_no_fault_of_their_own_where_all_were_told_to_stop(training):
    def signal_everybody() -> None:
        training.stop(30)
        for process in psutil.Process().children(recursive=True):
            process.kill()

    error = training.fail(signal_everybody)

    assert type(error) is Interrupted


def test_a_more_pressing_notice_takes_the_place_of_the_first(training):
    def stop_at_leisure_then_in_a_hurry() -> None:
        training.stop(60)
        threading.Timer(0.5, training.stop, [1.0]).start()

    error = training.fail(stop_at_leisure_then_in_a_hurry, DEAF=1)

    assert type(error) is Interrupted
    assert training.seconds < 5


def test_what_an_earlier_launch_left_is_not_taken_for_this_ones(training):
    training.fail(lambda: os.kill(training.pid(1), signal.SIGSEGV))
    again = Training(training.run_dir.root)

    again.run(lambda: again.stop(30))

    assert not any(training.run_dir.errors.iterdir())


def test_a_lock_that_a_killed_compilation_left_is_gone_before_anybody_waits_for_it(training):
    lock = training.run_dir.extensions / "fused_adam" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()

    training.run(lambda: training.stop(30))

    assert not lock.exists()
    assert lock.parent.exists()
