"""Every way a job can end badly. Each class owns its exit code and says who may retry it.

::

    JobError
    ├── BadData            65  never        rows that cannot teach
    ├── NotFound           66  never        model, dataset or revision does not exist
    ├── Bug                70  counted      unclassified: our fault until shown otherwise
    ├── OutputTaken        73  never        the output belongs to another run, or a live attempt holds it
    ├── Interrupted        75  uncounted    stopped from outside; run it again
    ├── AccessDenied       77  never        credentials missing, wrong, expired or not enough
    ├── BadSpec            78  never        a setting is wrong, or no plan fits
    ├── UnsuitableHost     80  other_host   driver, disk, /dev/shm, clock, no GPU
    ├── GpuFault           81  other_host   GPU, NCCL or ECC fault, or a worker killed by a signal
    ├── Hang               82  other_host   a rank stopped making progress
    ├── NetworkExhausted   83  counted      inputs could not be fetched after all retries
    ├── UploadIncomplete   84  counted      trained, but not all of it is verified in every output
    ├── DeadlineReached    85  operator     deadline or budget reached, partial result published
    ├── Diverged           90  never        the loss or a gradient is no number, or the loss has left its band for good
    ├── OutOfMemory        91  never        no memory left after all fallbacks
    ├── AdapterRejected    92  never        the adapter did not learn, or its file is not what was trained
    └── NoProgress         93  never        three attempts without a new durable step

The first digit is the class: 6x and 7x want a person (but 70 and 75), 8x another machine or another try, 9x failed as
training. 125-127 and 128+n belong to Docker and the shell and are never chosen here.
"""

from typing import ClassVar, Literal

Retry = Literal["never", "counted", "uncounted", "other_host", "operator"]


class JobError(Exception):
    """A failure with a cause (one sentence that names the variable or file and its value) and a fix (what to try)."""

    exit_code: ClassVar[int]
    retry: ClassVar[Retry]

    def __init__(self, cause: str, fix: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.cause} {self.fix}".strip()


class BadData(JobError):
    exit_code, retry = 65, "never"


class NotFound(JobError):
    exit_code, retry = 66, "never"


class Bug(JobError):
    exit_code, retry = 70, "counted"


class OutputTaken(JobError):
    exit_code, retry = 73, "never"


class Interrupted(JobError):
    exit_code, retry = 75, "uncounted"


class AccessDenied(JobError):
    exit_code, retry = 77, "never"


class BadSpec(JobError):
    exit_code, retry = 78, "never"


class UnsuitableHost(JobError):
    exit_code, retry = 80, "other_host"


class GpuFault(JobError):
    exit_code, retry = 81, "other_host"


class LostPeers(GpuFault):
    """A rank cannot go on as another has died, whose end is the root cause."""


class Hang(JobError):
    exit_code, retry = 82, "other_host"


class NetworkExhausted(JobError):
    exit_code, retry = 83, "counted"


class UploadIncomplete(JobError):
    exit_code, retry = 84, "counted"


class DeadlineReached(JobError):
    """The time is up, or the money spent; *published*: a partial result is in the output."""

    exit_code, retry = 85, "operator"

    def __init__(self, cause: str, fix: str = "", *, published: bool = False) -> None:
        super().__init__(cause, fix)
        self.published = published


class Diverged(JobError):
    exit_code, retry = 90, "never"


class OutOfMemory(JobError):
    """A GPU's memory ran out, of which a smaller plan needs less; or, *of_host*, that of the machine or container."""

    exit_code, retry = 91, "never"

    def __init__(self, cause: str, fix: str = "", *, of_host: bool = False) -> None:
        super().__init__(cause, fix)
        self.of_host = of_host


class AdapterRejected(JobError):
    """The adapter did not learn, or is not what was trained; *published*: it is in the output, under ``rejected/``."""

    exit_code, retry = 92, "never"

    def __init__(self, cause: str, fix: str = "", *, published: bool = False) -> None:
        super().__init__(cause, fix)
        self.published = published


class NoProgress(JobError):
    exit_code, retry = 93, "never"


ERROR_CLASSES: tuple[type[JobError], ...] = tuple(sorted(JobError.__subclasses__(), key=lambda cls: cls.exit_code))


def error_for(exit_code: int) -> type[JobError]:
    """The class that owns *exit_code*; `Bug` for a code that none owns."""
    return next((cls for cls in ERROR_CLASSES if cls.exit_code == exit_code), Bug)
