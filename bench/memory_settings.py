"""The settings of bench/memory_grid.py: what is trained, how it is planned, and rows that fill it exactly."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from job.plan import make_plan
from job.prepare.batch import split_batch
from job.prepare.shape import Shaped
from job.prepare.write import SplitWriter
from job.records import DatasetFacts, Facts, HardwareFacts, PackingProbe, Plan, Quantization
from job.spec import JobSpec
from tests.models import golden_facts

STEPS = 8  # the first pays for warm-up, the others are timed
ACCUMULATION = 2  # micro-batches of a step: the adapter's gradients are there when the second begins
ROWS_IN_PACK = 8
TOKEN_IDS = 100  # rows are made of the first ones, which every tokenizer has


@dataclass(frozen=True)
class Setting:
    """One row of the grid."""

    model: str
    quantization: Quantization
    gradient_checkpointing: bool
    per_device: int
    length: int  # tokens of the longest row, or of a pack
    packing: bool = False
    dropout: float = 0.0

    @property
    def spec(self) -> JobSpec:
        rows = ROWS_IN_PACK if self.packing else self.per_device
        return JobSpec(
            model=self.model, dataset_uri="org/rows", strategy="single", quantization=self.quantization,
            gradient_checkpointing=self.gradient_checkpointing, per_device_train_batch_size=self.per_device,
            global_batch_size=ACCUMULATION * rows, max_length=self.length, packing=self.packing,
            lora_dropout=self.dropout, max_steps=STEPS, save_steps=STEPS,
        )  # fmt: skip

    def plan(self, hardware: HardwareFacts) -> Plan:
        """Raises:
        BadSpec: it does not fit.
        """
        tokens = self.length // ROWS_IN_PACK if self.packing else self.length
        rows = DatasetFacts(
            rows=1000, epoch_rows=1000, sampled=False, mean_tokens=tokens, max_tokens=tokens, lengths=(tokens,) * 21,
            trained_share=1, format="text", format_reason="",
        )  # fmt: skip
        probe = PackingProbe(isolated=True, reason="")
        return make_plan(
            self.spec, Facts(hardware=hardware, model=golden_facts(self.model), dataset=rows, packing=probe)
        )

    @property
    def row_lengths(self) -> list[int]:
        """Tokens of each row of the run. Rows that share a micro-batch are unequal, as real ones: padding brings the
        attention mask, which equal rows have none of."""
        if self.packing:
            return [self.length // ROWS_IN_PACK] * (STEPS * ACCUMULATION * ROWS_IN_PACK)
        count = STEPS * ACCUMULATION * self.per_device
        return [self.length - (index % 8 if self.per_device > 1 else 0) for index in range(count)]

    @property
    def cells(self) -> tuple[str, ...]:
        packs = " packed" if self.packing else ""
        return (
            self.model.split("/")[1], self.quantization, "on" if self.gradient_checkpointing else "off",
            f"{self.dropout:g}", f"{self.per_device} × {self.length:,}{packs}",
        )  # fmt: skip


# The cheapest model first, then the one most asked for, then other architectures; each is made once, for all its rows.
# The adapter's dtype follows from the base, as in every plan: float32 over none, bfloat16 over int8 and nf4.
_LLAMA_1B, _LLAMA_8B = "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B"
_GEMMA, _PHI, _QWEN = "google/gemma-2-2b-it", "microsoft/phi-2", "Qwen/Qwen3-4B"
SETTINGS = (
    Setting(_LLAMA_1B, "none", False, 4, 1024),
    Setting(_LLAMA_1B, "none", True, 8, 2048),
    Setting(_LLAMA_1B, "nf4", False, 4, 1024, dropout=0.05),
    Setting(_LLAMA_1B, "none", False, 1, 8192, packing=True),
    Setting(_LLAMA_8B, "none", True, 2, 2048),
    Setting(_LLAMA_8B, "nf4", True, 2, 2048),
    Setting(_LLAMA_8B, "none", False, 1, 4096, packing=True),
    Setting(_LLAMA_8B, "nf4", False, 2, 2048, dropout=0.05),
    Setting(_LLAMA_8B, "int8", True, 4, 1024),
    Setting(_LLAMA_8B, "int8", False, 2, 1024),
    Setting(_GEMMA, "none", False, 2, 1024),
    Setting(_GEMMA, "none", True, 2, 2048),
    Setting(_GEMMA, "nf4", False, 4, 512, dropout=0.05),
    Setting(_QWEN, "none", False, 4, 1024),
    Setting(_QWEN, "none", True, 1, 8192, packing=True, dropout=0.05),
    Setting(_QWEN, "nf4", False, 1, 4096),
    Setting(_PHI, "none", False, 2, 1024),
    Setting(_PHI, "nf4", True, 4, 2048),
)


def write_rows(setting: Setting, path: Path) -> None:
    """Random rows, every token of which carries loss."""
    random = np.random.default_rng(0)
    rows = [
        Shaped((ids, ids), length, length, length)
        for length in setting.row_lengths
        for ids in [random.integers(3, TOKEN_IDS, length, dtype=np.int32)]
    ]
    with SplitWriter(path, setting.length, setting.packing) as writer:
        writer.add(split_batch("sft", rows, range(len(rows))))
