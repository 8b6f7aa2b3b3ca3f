"""What is told while a run goes on: to its workers, by its workers, and to other machines."""

from pydantic import Field

from job.records.base import Precision, Quantization, Record, Strategy
from job.records.plan import Plan


class StopNotice(Record):
    """The stop file: the workers end after the same step, with a checkpoint if there is time for one."""

    reason: str
    deadline: float  # time.monotonic(), which all processes of a machine share, when what still runs is killed


class Layout(Record):
    """Whose state a checkpoint holds. ``layout.json`` is the last file of a local checkpoint to be written."""

    step: int
    strategy: Strategy
    num_processes: int
    precision: Precision
    adapter_dtype: Precision
    quantization: Quantization
    eval_loss: float | None  # of the state itself, evaluated at this very step
    best_step: int | None = None  # whose adapter is to be published, as far as is known; None: the last one
    full: bool = False  # all weights of the model, and no adapter
    save_s: float  # how long training stood still for it

    def suits(self, plan: Plan) -> bool:
        """Whether a run under *plan* can go on from it exactly. Plain processes hold the same files each, so their
        number is free; FSDP and DeepSpeed spread theirs."""
        same = all(
            getattr(self, name) == getattr(plan, name) for name in ("precision", "adapter_dtype", "quantization")
        )
        return same and self._place() == Layout._place(plan)

    def _place(self: "Layout | Plan") -> tuple[str, int]:
        return (self.strategy, self.num_processes) if self.strategy in SPREAD else ("plain", 0)


SPREAD = ("fsdp", "zero2", "zero3")  # strategies whose checkpoints are spread over the processes


class Pushed(Record):
    """``pushed.json``, by the supervisor: what it took to push the newest checkpoint."""

    upload_s: float


class Exit(Record):
    """``exits/rank{N}.json``: how the process of a rank ended."""

    status: int | None  # None: killed by *signal*
    signal: int | None
    time: float  # seconds since the epoch


class Progress(Record):
    """How far a run is. All but the phase is unknown until training begins."""

    phase: str
    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    eval_loss: float | None = None
    tokens_per_s: float | None = None
    left_s: float | None = None  # of training
    last_durable_step: int | None = None


class Pulse(Record):
    """``attempts/NNNN/heartbeat.json``: written again and again while the attempt lives; seen to change, it lives."""

    beat: int
    elapsed_s: float  # since this attempt began
    num_gpus: int  # of the machine, all of which are paid for
    ending: bool = False  # asked to stop, or at its end: who waits for the run waits on
    progress: Progress


class Claim(Record):
    """``attempts/NNNN/claim.json``: who holds the run."""

    fingerprint: str
    writer: str = Field(description="Random, to know one's own claim again.")
    host: str = Field(description="Boot and process namespace: the same only on this very machine and container.")
    pid: int
    started: float = Field(description="When the process began, as its kernel counts; tells a reused pid.")
