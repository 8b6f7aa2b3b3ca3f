"""``python -m job.probe.all_reduce OUT_DIR RANK PROCESSES BACKEND``: one of several processes that add up a tensor.

A wrong sum counts as a failure: where a machine redirects what its GPUs send each other, data can be lost silently.
"""

import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from job.child import run_child
from job.errors import GpuFault
from job.records import AllReduce
from job.rundir import write_json

MIB = 64  # enough to reach the bandwidth of the link rather than its latency
ROUNDS = 5
_PATTERN = 128  # values repeat after so many elements; sums stay exact in float32
_TIMEOUT = timedelta(minutes=10)  # whoever started this process ends it sooner


def all_reduce(out: Path, rank: int, processes: int, backend: str) -> AllReduce:
    """Meet the other processes, add up, compare with the known sum, and measure.

    Raises:
        GpuFault: the sum is wrong.
    """
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    meeting = f"file://{(out / 'meeting').absolute()}"
    dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=processes, timeout=_TIMEOUT)
    _check_sum(rank, processes, device)
    seconds = _seconds_per_round(device)
    dist.destroy_process_group()
    # What a perfect ring would send over each link (nccl-tests, PERFORMANCE.md, "bus bandwidth").
    return AllReduce(gb_per_s=MIB * 2**20 / 1e9 / seconds * 2 * (processes - 1) / processes)


def _pattern(device: torch.device) -> torch.Tensor:
    return torch.arange(MIB * 2**20 // 4, device=device).remainder_(_PATTERN).float()


def _check_sum(rank: int, processes: int, device: torch.device) -> None:
    pattern = _pattern(device)
    total = pattern + rank
    dist.all_reduce(total)
    if not torch.equal(total, pattern * processes + processes * (processes - 1) / 2):
        raise GpuFault(f"GPU {rank} received a wrong sum.")


def _seconds_per_round(device: torch.device) -> float:
    tensor = torch.zeros(MIB * 2**20 // 4, device=device)
    _settle(tensor)
    start = time.perf_counter()
    for _ in range(ROUNDS):
        dist.all_reduce(tensor)
    _settle(tensor)
    return (time.perf_counter() - start) / ROUNDS


def _settle(tensor: torch.Tensor) -> None:
    """Wait for the other processes, and for whatever the GPU has yet to do."""
    dist.barrier(device_ids=[tensor.device.index] if tensor.is_cuda else None)
    if tensor.is_cuda:
        torch.cuda.synchronize()


def main() -> None:
    out, rank = Path(sys.argv[1]), int(sys.argv[2])

    def story() -> None:
        result = all_reduce(out, rank, int(sys.argv[3]), sys.argv[4])
        if rank == 0:
            write_json(out / "all_reduce.json", result)

    run_child(story, out / f"rank{rank}.json", rank)


if __name__ == "__main__":
    main()
