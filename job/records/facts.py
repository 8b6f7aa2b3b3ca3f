"""What is so: the machine, the model, the rows."""

import math
from typing import Any, Literal

from job.records.base import Record
from job.records.probe import DryRun, PackingProbe


class Gpu(Record):
    """One GPU. What NVML does not tell (of a MIG slice or a vGPU, say) is None or 0."""

    name: str
    memory_gib: float
    compute_capability: tuple[int, int]
    used_gib: float = 0.0  # held by anybody before this job
    index: int = 0  # as nvidia-smi counts
    processes: tuple[int, ...] = ()  # ids of those that compute on it, as the machine counts them, not the container
    ecc_errors: int | None = None  # uncorrected ones since the driver was loaded
    row_remap: Literal["pending", "failed"] | None = None  # of broken rows of its memory


class HardwareFacts(Record):
    """The machine as NVML and the operating system see it. No GPU is a fact, not an error."""

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    cuda: tuple[int, int] | None = None  # the newest CUDA that the driver knows; None: not told
    cpus: int = 1
    memory_gib: float = 0.0
    shm_gib: float | None = None  # free in /dev/shm; None: not told, or NCCL is forbidden to use it


class TensorGroup(Record):
    """Tensors that differ only by the numbers in their names: one weight of every layer, or of every expert."""

    name: str  # the numbers written as *: model.layers.*.mlp.gate_proj.weight
    shape: tuple[int, ...]
    dtype: str  # safetensors' name
    count: int

    @property
    def numel(self) -> int:
        """Elements of all of them together."""
        return math.prod(self.shape) * self.count


class ModelFacts(Record):
    """The base model as its ``config.json`` and safetensors headers describe it; no weight was read."""

    uri: str
    revision: str | None
    model_type: str
    parameters: int
    weights_bytes: int
    dtypes: dict[str, int]  # safetensors dtype -> number of parameters
    tensors: tuple[TensorGroup, ...]
    config: dict[str, Any]  # config.json, of a multimodal model its language model's part
    max_length: int | None  # max_position_embeddings
    identity: str  # changes when any file of the model changes


class DatasetFacts(Record):
    """Row and token counts, from all rows or, *sampled*, from the first ones."""

    rows: int
    epoch_rows: int | None  # in one epoch; of a sample about, None when not even that is known
    sampled: bool
    mean_tokens: float
    max_tokens: int
    lengths: tuple[int, ...]  # tokens of the shortest row, of those at each further 5 % by length, and of the longest
    trained_share: float  # share of tokens that carry loss, 0..1
    format: str
    format_reason: str


class Facts(Record):
    hardware: HardwareFacts
    model: ModelFacts
    dataset: DatasetFacts
    packing: PackingProbe | None = None  # None: not probed, because packing was ruled out before
    reward_parameters: int = 0  # of the model that scores answers
    dry_run: DryRun | None = None  # None: the formula knows this architecture
