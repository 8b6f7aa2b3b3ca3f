"""How the job will run."""

import math
from datetime import datetime

from pydantic import Field

from job.records.base import Precision, Quantization, Record, Strategy


class MemoryItem(Record):
    """One line of the arithmetic."""

    name: str
    gib: float
    why: str


class MemoryEstimate(Record):
    """What one GPU will hold at the fullest moment of a step."""

    items: tuple[MemoryItem, ...]
    limit_gib: float  # what a plan may use of the smallest GPU

    @property
    def total_gib(self) -> float:
        return sum(item.gib for item in self.items)

    @property
    def fits(self) -> bool:
        return self.total_gib <= self.limit_gib


class Decided(Record):
    """What the first attempt at a run settles for all later ones, as it changes the numbers."""

    quantization: Quantization
    packing: bool
    model: str | None = None  # what `ModelSource.pin` was; None, as for *rows*: not known, an earlier version settled
    rows: str | None = None  # SHA-256 over the prepared rows
    adapter: str | None = None  # SHA-256 over the adapter that the run starts from; None: there is none
    revisions: dict[str, str] = Field(default={})  # URI on the Hub -> commit
    template_time: datetime | None = None  # what a chat template that asks for the date was told; None: it does not ask


class Forecast(Record):
    """How long the run will take and what it will cost, before its first step."""

    tokens_per_s: float  # over all GPUs, padding left out
    why: str
    steps: int | None  # None: the number of rows is not known
    tokens: int | None
    hours: float | None  # of training alone
    cost: float | None  # in the currency of JOB_GPU_HOUR_PRICE; None without it


class Alternative(Record):
    """A way to run the job that was not taken, and why."""

    strategy: Strategy
    quantization: Quantization
    cpu_offload: bool
    gradient_checkpointing: bool
    per_device_train_batch_size: int
    memory_gib: float
    fits: bool  # into the GPUs
    tokens_per_s: float
    verdict: str


class Plan(Record):
    """How the job will run. *reasons* says why, one sentence a choice."""

    strategy: Strategy
    num_processes: int
    precision: Precision
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    global_batch_size: int  # sequences (packs, when packing; answers, where they are drawn) per optimizer step
    num_generations: int = 1  # answers that are drawn to each row
    whole_steps: bool = False  # rows that do not fill a last step are left out of an epoch
    least_per_device: int = 1  # rows without which the method does not work
    packing: bool
    gradient_checkpointing: bool
    max_length: int
    quantization: Quantization = "none"
    optim: str = "adamw_torch_fused"
    adapter_dtype: Precision = "fp32"
    cpu_offload: bool = False  # frozen weights live in the host's memory
    use_gpu: bool
    memory: MemoryEstimate | None = None  # None: on a CPU
    forecast: Forecast | None = None  # None: on a CPU
    alternatives: tuple[Alternative, ...] = ()
    fallbacks: tuple[str, ...] = ()  # what was given up after running out of memory, in order
    worker_env: dict[str, str] = Field(default={})  # what this machine needs to be told, such as NCCL_P2P_DISABLE=1
    reasons: dict[str, str]

    def steps_per_epoch(self, sequences: float) -> int:
        """Optimizer steps over *sequences* rows or packs. Where answers are drawn or compared, rows that do not fill a
        last step are left out of the epoch."""
        if self.num_generations > 1 or self.whole_steps:
            return max(1, int(sequences * self.num_generations // self.global_batch_size))
        return max(1, math.ceil(sequences / self.global_batch_size))

    @property
    def rows_at_a_time(self) -> int:
        """Rows or packs in one forward pass of all processes together."""
        return self.num_processes * self.per_device_train_batch_size
