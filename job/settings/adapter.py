"""What is trained: the adapter, and the base that it stands on."""

from typing import Literal

from pydantic import BaseModel

from job.records import Quantization
from job.settings.setting import setting


class AdapterSettings(BaseModel):
    """What is trained: the adapter, and the base that it stands on."""

    adapter: Literal["lora", "qlora"] = setting(
        "lora",
        doc="Adapter trained on the frozen base. `qlora` is `lora` with `JOB_QUANTIZATION=nf4`.",
        why="megabytes to store, nearly the quality of full tuning",
    )
    quantization: Literal["auto", Quantization] = setting(
        "auto",
        doc="How the frozen base is held: `none` (16 bit; 32 bit on a CPU), `int8`, or `nf4` (4 bit, with double "
        "quantization).",
        why="none if any strategy then fits into the memory of these GPUs, else nf4; decided once for a run",
    )
    lora_r: int = setting(16, doc="LoRA rank.", ge=1)
    lora_alpha: int = setting(32, doc="LoRA scaling numerator; the update is scaled by alpha / r.", ge=1)
    lora_dropout: float = setting(
        0.0, doc="Dropout on the adapter's input.", why="0 saves up to half of the activations", ge=0, lt=1
    )
    target_modules: tuple[str, ...] = setting(
        ("all-linear",),
        doc="Modules that get an adapter; `all-linear` is every linear layer but the head, and of a mixture of experts "
        "those of attention.",
        why="adapters on all layers learn nearly as well as full tuning; those of experts would take tens of GiB",
    )
