"""Limits on what a chat template may cost. It is a program of the model's author, and its sandbox bounds neither."""

import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType

# Processor time of one rendering; ordinary ones take well under a millisecond, those with many tools a few.
RENDER_S = 3.0
# Address space that renderings may add: many times what a row of the greatest length takes.
RENDER_BYTES = 512 * 2**20
# Characters of one rendering: several rows of the greatest length.
TEXT_LIMIT = 64 * 2**20


class TooCostly(BaseException):
    """A rendering ran into a limit. No `Exception`, so that nothing on its way takes it for the template's own."""


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Within the block, what is allocated beyond `RENDER_BYTES` raises `MemoryError`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _address_space() + RENDER_BYTES
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class RenderLimit:
    """Within the block a template is compiled or rendered. Main thread only, as signals are.

    Raises:
        TooCostly: it took `RENDER_S` seconds of processor time, or met the limit on memory.
    """

    def __init__(self) -> None:
        signal.signal(signal.SIGPROF, _out_of_time)

    def __enter__(self) -> None:
        # Again every second: an exception that is raised inside a destructor is lost.
        signal.setitimer(signal.ITIMER_PROF, RENDER_S, 1.0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        if isinstance(error, MemoryError):
            raise TooCostly(f"takes more than {RENDER_BYTES // 2**20} MiB of memory") from error


def _out_of_time(_number: int, _frame: FrameType | None) -> None:
    raise TooCostly(f"takes more than {RENDER_S:g} s")


def _address_space() -> int:
    """Bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
