"""What upstream's failures are called, and that a rank which only lost its peers is not taken for the cause."""

import os
import signal
import threading
import time
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from job.child import describe
from job.errors import Diverged, GpuFault, Hang, LostPeers, OutOfMemory
from job.records import Exit, WorkerError
from job.rundir import read_record
from job.train.faults import faults_told
from tests.worker.strategies import Inputs, Run, make_inputs, make_run

FAULTS = [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"), OutOfMemory),
    (torch.AcceleratorError("CUDA error: out of memory"), OutOfMemory),
    (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), GpuFault),
    (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), GpuFault),
    (dist.DistBackendError("NCCL error in: x.cpp:1, unhandled cuda error"), GpuFault),
    (dist.DistBackendError("NCCL error in: x.cpp:1, remote process exited or there was a network error"), LostPeers),
    (dist.DistBackendError("wait timeout after 600000ms, keys: /default_pg/0"), Hang),
    (dist.DistNetworkError("The client socket has timed out after 60s"), Hang),
    (RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:33141"), LostPeers),
    (Exception("Current loss scale already at minimum - cannot decrease scale anymore. Exiting run."), Diverged),
    (RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv"), Hang),
]


@pytest.mark.parametrize(("error", "kind"), FAULTS, ids=lambda value: str(value)[:60])
def test_upstreams_failures_get_the_jobs_names(error, kind):
    with pytest.raises(kind) as caught, faults_told(1):
        raise error

    assert type(caught.value) is kind
    assert str(error).splitlines()[0] in caught.value.cause


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), torch.AcceleratorError("device-side assert triggered")]
)
def test_a_mistake_in_a_program_is_no_fault_of_the_gpu(error):
    with pytest.raises(type(error)), faults_told(0):
        raise error


def test_only_a_rank_that_lost_its_peers_is_secondary():
    assert describe(LostPeers("Rank 0 lost its peers"), 0).secondary
    assert not describe(GpuFault("The GPU of rank 0 failed"), 0).secondary


def long_run(inputs: Inputs, root) -> Run:
    run = make_run(inputs, root, "ddp", save_steps=1000)
    return replace(run, settings=run.settings | {"max_steps": 5000, "logging_steps": 10})


def signal_while_training(run: Run, rank: int, number: int) -> threading.Thread:
    """To the process of *rank* itself, once it trains."""

    def send() -> None:
        while not run.files.log.exists() or '"first_step"' not in run.files.log.read_text():
            time.sleep(0.05)
        os.kill(int(run.files.beat(rank).read_text()), number)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.slow
def test_a_killed_rank_is_the_cause_and_its_peer_is_not(inputs, tmp_path):
    run = long_run(inputs, tmp_path / "run")
    signal_while_training(run, 1, signal.SIGKILL)

    assert run.attempt().returncode

    assert read_record(run.files.exit(1), Exit).signal == signal.SIGKILL
    assert read_record(run.files.exit(0), Exit).status != 0
    report = read_record(run.files.error(0), WorkerError)
    assert report.secondary
    assert report.cause.startswith("Rank 0 lost its peers")
    assert not run.files.error(1).exists()


@pytest.mark.slow
def test_a_signal_to_one_of_two_ranks_stops_both_after_the_same_step(inputs, tmp_path):
    run = long_run(inputs, tmp_path / "run")
    signal_while_training(run, 1, signal.SIGTERM)

    run.execute()

    assert run.result.status == "stopped"
    assert (run.files.checkpoints / f"checkpoint-{run.result.steps}" / "layout.json").exists()
    assert [read_record(run.files.exit(rank), Exit).status for rank in (0, 1)] == [0, 0]
