"""What every record has in common, and the words that several of them use."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Precision = Literal["bf16", "fp16", "fp32"]
Strategy = Literal["single", "ddp", "fsdp", "zero2", "zero3", "cpu"]
Quantization = Literal["none", "int8", "nf4"]
Format = Literal[
    "messages", "sharegpt", "prompt-completion", "alpaca", "text", "preference", "unpaired-preference", "prompt-only"
]
Allowance = Literal["truncation", "nothing_to_learn", "untrained_end", "trained_prompt"]


class Record(BaseModel):
    """Base of all records: frozen, and an unknown field is an error rather than silently dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid")
