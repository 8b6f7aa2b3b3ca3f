"""What upstream's exceptions mean for the job: memory, the GPU, the network between ranks, or a rank elsewhere."""

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist

from job.errors import Diverged, GpuFault, Hang, JobError, LostPeers, OutOfMemory

# By what it says: torch raises RuntimeError for all of gloo's failures, DistBackendError for all of NCCL's.
_TIMED_OUT = ("timed out", "timeout")
# gloo's and the store's words for a connection that the other end has closed, and NCCL's ncclRemoteError.
_CLOSED = (
    "connection closed by peer",
    "connection reset",
    "broken pipe",
    "connection refused",
    "remote process exited",
)
# A wrong index in a kernel, which any GPU will find again.
_ASSERT = "device-side assert"
# DeepSpeed's way to say that fp16 gradients overflow at any loss scale: they are no numbers.
_NO_SCALE = "loss scale already at minimum"


@contextlib.contextmanager
def faults_told(rank: int) -> Iterator[None]:
    """Raises:
    OutOfMemory: of the GPU.
    Diverged: no loss scale keeps the gradients finite.
    GpuFault: CUDA or NCCL failed.
    LostPeers: a collective failed, as another rank has died.
    Hang: a collective timed out.
    """
    try:
        yield
    except Exception as error:
        if job_error := _meaning(error, rank):
            raise job_error from error
        raise


def _meaning(error: Exception, rank: int) -> JobError | None:
    """None: nothing that is known of."""
    said = str(error)
    line, words = next(iter(said.splitlines()), ""), said.lower()
    if isinstance(error, torch.OutOfMemoryError) or (_is_cuda(error) and "out of memory" in words):
        return OutOfMemory(
            f"GPU memory ran out ({line})",
            "Set JOB_PER_DEVICE_TRAIN_BATCH_SIZE=1, lower JOB_MAX_LENGTH, or use a larger GPU.",
        )
    if _is_cuda(error) and _ASSERT not in words:
        return GpuFault(f"The GPU of rank {rank} failed ({line})", "Run the same job again, on another machine.")
    if _NO_SCALE in words:
        return Diverged(f"Gradients are NaN or infinite at any loss scale ({line})", "Lower JOB_LEARNING_RATE.")
    if _is_network(error, words):
        if any(word in words for word in _CLOSED):
            return LostPeers(f"Rank {rank} lost its peers ({line})", "Look at how they ended.")
        if any(word in words for word in _TIMED_OUT):
            return Hang(f"Rank {rank} waited in vain for its peers ({line})", "Run the same job again.")
        return GpuFault(f"Rank {rank} cannot reach its peers ({line})", "Run the same job again, on another machine.")
    return None


def _is_cuda(error: Exception) -> bool:
    return isinstance(error, torch.AcceleratorError)


def _is_network(error: Exception, words: str) -> bool:
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in words)
