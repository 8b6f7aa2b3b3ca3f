"""What the probes find: of the model by running its code on little or nothing, of the machine by trying it."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from job.records.base import Precision, Record


class Activations(Record):
    """Bytes that one token occupies on a GPU between its forward and its backward pass, weights and loss head apart.

    Without checkpointing a step needs ``saved + transient`` per token, with it ``boundary + layer + transient``.
    """

    saved: float  # kept by all layers together
    boundary: float  # kept by all layers together when they are checkpointed: their inputs
    layer: float  # kept by the one layer that needs most, while it is recomputed
    transient: float  # held for a moment by the backward pass beyond what is kept
    source: Literal["formula", "dry run", "rule of thumb"]


class DryRunTask(Record):
    model_path: Path  # a folder with config.json; no weights are read
    adapter: str  # JOB_ADAPTER
    fields: dict[str, Any]  # of its PEFT config, but for what depends on the model's modules
    tokens: int  # of one row: attention without a fused kernel grows with their square
    masked: bool  # rows are padded or packed, so attention gets a mask
    adapter_dtypes: tuple[Precision, ...] = ("bf16", "fp32")


class DryRun(Record):
    """What a step of the real modelling code holds, found without a GPU and without weights."""

    activations: dict[Precision, Activations] = Field(default={})  # by the adapter's dtype
    # Bytes of a step whatever its tokens, in the same four parts: casts of adapters, experts merged with theirs.
    fixed: dict[Precision, Activations] = Field(default={})
    adapter_parameters: int = 0
    quantized_parameters: int = 0  # of the layers that bitsandbytes would quantize
    largest_linear_parameters: int = 0  # of one such layer: its weight is unpacked whole for its product
    failure: str | None = None  # why this architecture could not be run; all else is then empty


class TorchBuild(Record):
    """What the installed torch was compiled for."""

    version: str
    cuda: str | None  # None: a build without CUDA
    archs: tuple[str, ...]  # machine code (sm_90) and code that a driver compiles (compute_90)


class AllReduce(Record):
    """A tensor that all GPUs have added up, with the right sum."""

    gb_per_s: float  # bus bandwidth as nccl-tests define it


class PackingProbe(Record):
    """Whether a packed neighbour can be seen by a row of this architecture."""

    isolated: bool
    reason: str
