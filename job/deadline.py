"""When a run must be over: JOB_MAX_HOURS and JOB_MAX_COST, over all its attempts together."""

from collections.abc import Iterable
from dataclasses import dataclass

from job.errors import DeadlineReached
from job.pace import Measured
from job.records import Pulse
from job.spec import JobSpec

_FIX = "Raise it and run the same job again: it goes on from where it is."
# Left for the end beyond what has been measured: the end of the processes, the reports.
_UNMEASURED_S = 10.0
# The last save, and the upload of a checkpoint and of the partial result, may each take twice as long as before.
_CAUTION = 2.0


@dataclass(frozen=True)
class Deadline:
    """The moment, by time.monotonic(), and the setting that put it there."""

    ends_at: float
    setting: str

    def error(self) -> DeadlineReached:
        return DeadlineReached(f"{self.setting} is reached.", _FIX)


def find_deadline(spec: JobSpec, num_gpus: int, began: float, earlier: Iterable[Pulse]) -> Deadline | None:
    """The earlier one of the two, for an attempt that *began* then (time.monotonic()) after those whose last pulses are
    *earlier*; None without a limit. Every GPU of a machine is paid for, used or not."""
    pulses = list(earlier)
    deadlines = []
    if spec.max_hours:
        left_s = spec.max_hours * 3600 - sum(pulse.elapsed_s for pulse in pulses)
        deadlines.append(Deadline(began + left_s, f"JOB_MAX_HOURS={spec.max_hours:g}"))
    if spec.max_cost and spec.gpu_hour_price:
        gpu_s = spec.max_cost / spec.gpu_hour_price * 3600 - sum(pulse.elapsed_s * pulse.num_gpus for pulse in pulses)
        setting = f"JOB_MAX_COST={spec.max_cost:g} at JOB_GPU_HOUR_PRICE={spec.gpu_hour_price:g}"
        deadlines.append(Deadline(began + gpu_s / num_gpus, setting))
    return min(deadlines, key=lambda deadline: deadline.ends_at, default=None)


def reserve_s(measured: Measured) -> float:
    """Seconds before the deadline at which training has to be told to stop for its adapter to be published in time: it
    hears of it after one step and stops after the next, with an evaluation between them at worst."""
    return 2 * measured.step_s + measured.eval_s + _CAUTION * measured.save_s + publishing_s(measured)


def publishing_s(measured: Measured) -> float:
    """Seconds before the deadline at which an adapter has to be published as it is, judged or not."""
    return _UNMEASURED_S + _CAUTION * 2 * measured.upload_s
