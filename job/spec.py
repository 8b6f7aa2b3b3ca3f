"""What the user asked for. One field per setting; `docs/environment.md` is generated from the descriptions here.

Names are upstream's own (TRL, PEFT), lower case; the variable is ``JOB_`` + the name in capitals.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from job.kinds import (
    Auto,
    ChatTemplate,
    Column,
    DatasetUri,
    DatasetUris,
    ModelUri,
    OutputUris,
    Scheduler,
    TrainerArgs,
    Weight,
)
from job.records import Allowance, Format, Quantization, Strategy


def setting(default: Any = ..., *, doc: str, why: str = "", changes_result: bool = True, **limits: Any) -> Any:
    """One field: its default, what it means, why the default is what it is, and whether it changes the numbers
    (only those that do enter the run's fingerprint)."""
    extra: dict[str, Any] = {"why": why, "changes_result": changes_result}
    return Field(default, description=doc, json_schema_extra=extra, **limits)


class JobSpec(BaseModel):
    """A frozen, validated job. Holds no secret: credentials stay in the variables of the SDKs that read them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: ModelUri = setting(
        doc="Base model: `org/name[@revision]` or `hf://org/name[@revision]` on the Hub, `s3://bucket/prefix`, or a "
        "folder. It holds `config.json`, `tokenizer.json` and safetensors weights."
    )
    # Not every verb needs rows or an output, so their absence is found by load_spec.
    dataset_uri: DatasetUris = setting(
        (),
        doc="Training rows: `s3://bucket/key` (a file, a prefix, or a pattern such as `data/**/*.jsonl`), "
        "`hf://datasets/org/name[@revision][/path][?config=…&split=…]`, bare `org/name`, a file, a folder or a "
        "pattern. JSONL, JSON, CSV (each also as `.gz` or `.zst`), Parquet or Arrow. On the Hub, configurations and "
        "splits are those of the dataset card, else of the file names; the split is `train` unless named. Several "
        "sources, separated by commas, are mixed.",
    )
    dataset_weights: tuple[Weight, ...] = setting(
        (),
        doc="One number per source in `JOB_DATASET_URI`: the share of its rows that an epoch holds. 1 is every row "
        "once, 0.5 half of the rows (picked by a hash of each row and the seed, the same ones in every epoch), 2 every "
        "row twice, 2.5 every row twice and half of them once more. Rows held out by `JOB_EVAL_FRACTION` stand once.",
        why="every row once",
    )
    output_uri: OutputUris = setting(
        (),
        doc="Where the result goes: `s3://bucket/prefix`, `hf://org/name` or a folder. Several, separated by commas: "
        "the first is primary and names the run, the others receive a copy of the finished result.",
        changes_result=False,
    )
    method: Literal["sft"] = setting("sft", doc="Training method.", why="supervised fine-tuning comes first")
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

    columns: dict[Column, str] = setting(
        {},
        doc="Maps the names the job knows to the names in the data: `prompt=question,completion=answer`. Known: "
        "`messages`; `conversations`; `prompt` and `completion`; `instruction`, `input` and `output`; `text`; `chosen` "
        "and `rejected`; `label`.",
        why="the names are used as they are",
    )
    format: Format | None = setting(
        None,
        doc="Format of the rows: `messages`, `sharegpt`, `prompt-completion`, `alpaca`, `text`, `preference`, "
        "`unpaired-preference` or `prompt-only`.",
        why="recognised by the columns of the first row",
    )
    response_template: str | None = setting(
        None,
        doc="For `text` rows: loss only on what follows the last occurrence of this text, such as `### Response:`.",
        why="all of the text is learned",
    )
    chat_template: ChatTemplate | None = setting(
        None,
        doc="Chat template that renders conversations: `chatml` or `plain`; a `.jinja` file; or a model whose "
        "tokenizer has one (`org/name`, `hf://org/name`, `s3://bucket/prefix`, a folder), whose tokens it brings.",
        why="the tokenizer's own; `plain` for conversations where it has none",
    )
    bad_rows: Literal["fail", "skip"] = setting(
        "fail",
        doc="What to do with rows that cannot be used.",
        why="a broken row is mostly the sign of a broken export",
    )
    max_bad_fraction: float = setting(
        0.01,
        doc="With `JOB_BAD_ROWS=skip`, the share of rows that may be skipped; always, the share that may have nothing "
        "to learn.",
        why="1 %",
        ge=0,
        le=1,
    )
    allow: tuple[Allowance, ...] = setting(
        (),
        doc="Findings of the data gate to accept: `truncation` (more than half of the rows cut), `nothing_to_learn` "
        "(too many rows without a trained token), `untrained_end` (the end-of-turn token is never learned), "
        "`trained_prompt` (the user's turns are learned too).",
        why="each of them wastes the run",
    )
    eval_fraction: float = setting(
        0.0,
        doc="Share of the rows held out for evaluation, picked by a hash of each row, before packing.",
        why="no row is taken from training unasked",
        ge=0,
        lt=1,
    )
    eval_dataset_uri: DatasetUri | None = setting(
        None, doc="Rows to evaluate on, in the same format as the training rows.", why="no evaluation unasked"
    )
    eval_steps: int | None = setting(
        None, doc="Optimizer steps between evaluations.", why="once per epoch and at least five times a run", ge=1
    )

    num_train_epochs: float = setting(3.0, doc="Passes over the data.", why="usual for small sets", gt=0)
    max_steps: int | None = setting(
        None, doc="Optimizer steps; takes precedence over the epochs.", why="the epochs decide", ge=1
    )
    learning_rate: float = setting(
        2e-4, doc="Peak learning rate.", why="about ten times the full fine-tuning rate, as LoRA needs", gt=0
    )
    lr_scheduler_type: Scheduler = setting("cosine", doc="Learning-rate schedule.", why="decays to zero smoothly")
    warmup_steps: float = setting(
        0.03, doc="Warm-up: a share of all steps when below 1, else a number of steps.", why="3 %", ge=0
    )
    global_batch_size: int = setting(
        16,
        doc="Rows per optimizer step over all GPUs together. With packing, as many packs as hold the same tokens. "
        "The number of GPUs never changes it.",
        why="stable without being slow",
        ge=1,
    )
    per_device_train_batch_size: int | None = setting(
        None,
        doc="Rows per GPU in one forward pass; accumulation makes up the rest of the global batch.",
        why="the fastest that fits, at most 8; 1 with packing",
        changes_result=False,
        ge=1,
    )
    max_length: int = setting(
        2048,
        doc="Longest row in tokens; longer ones are cut at the end. Never above the model's own limit.",
        why="holds most instruction data",
        ge=8,
    )
    packing: bool | Auto = setting(
        "auto",
        doc="Put several rows into one sequence, each attending only to itself.",
        why="on when rows average under half of max_length and the model keeps packed rows apart",
    )
    gradient_checkpointing: bool | Auto = setting(
        "auto",
        doc="Recompute activations in the backward pass to save memory.",
        why="off where the memory allows it, as it costs a third more arithmetic",
        changes_result=False,
    )
    weight_decay: float = setting(0.01, doc="AdamW weight decay.", ge=0)
    max_grad_norm: float = setting(1.0, doc="Gradient clipping norm; 0 turns it off.", ge=0)
    optim: Literal["adamw_torch_fused", "adamw_torch", "adafactor", "sgd"] = setting(
        "adamw_torch_fused", doc="Optimizer, by the Trainer's name.", why="AdamW in one fused kernel"
    )
    seed: int = setting(42, doc="Seed of adapter initialisation, data order and dropout.", ge=0, lt=2**32)

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

    trainer_args: TrainerArgs = setting(
        {}, doc='Any other field of TRL\'s `SFTConfig`, as JSON: `{"neftune_noise_alpha": 5}`.'
    )

    check_rows: int | None = setting(
        None, doc="For the verb `check`: rows to look at.", why="all of them", changes_result=False, ge=1
    )
    strategy: Literal["auto", Strategy] = setting(
        "auto",
        doc="How to use the GPUs: one copy of the model (`single`), one on each (`ddp`), or one shared by all (`fsdp`; "
        "`zero2` and `zero3` by DeepSpeed); `cpu` runs without one, whatever the model's size.",
        why="the fastest that fits: single or ddp, else fsdp, else fsdp with the base in the host's memory",
        changes_result=False,
    )
    cpu_offload: bool | Auto = setting(
        "auto",
        doc="With `fsdp` and `zero3`: keep the frozen base in the host's memory, from where it crosses to the GPU in "
        "every step.",
        why="only where nothing else fits",
        changes_result=False,
    )
    gpu_hour_price: float | None = setting(
        None,
        doc="Price of one GPU for one hour, in any currency, for the cost in the plan.",
        why="no cost is shown",
        changes_result=False,
        gt=0,
    )
    num_processes: int | None = setting(
        None, doc="Training processes.", why="one per visible GPU", changes_result=False, ge=1
    )
    save_steps: PositiveInt | Auto = setting(
        "auto",
        doc="Optimizer steps between checkpoints, from which an interrupted run goes on. `auto`: as often as saving "
        "takes at most 2 % of the time and the store keeps up, and mostly every minute or two.",
        why="a minute or two of work is at stake, more only where saving or the store is slow",
        changes_result=False,
    )
    save_total_limit: int = setting(
        3, doc="Checkpoints kept in the output, besides the best by evaluation loss.", changes_result=False, ge=1
    )
    keep_checkpoints: bool = setting(
        True, doc="Leave the checkpoints in the output after success.", why="as upstream", changes_result=False
    )
    max_hours: float | None = setting(
        None,
        doc="Hours that the run may take, all its attempts together. Before they are over the adapter is saved and "
        "published under `partial/`; a rerun with more goes on from there.",
        why="no limit",
        changes_result=False,
        gt=0,
    )
    max_cost: float | None = setting(
        None,
        doc="What the run may cost, all its attempts together, in the currency of JOB_GPU_HOUR_PRICE; ends as "
        "JOB_MAX_HOURS does.",
        why="no limit",
        changes_result=False,
        gt=0,
    )
    hang_timeout_s: PositiveFloat | Auto = setting(
        "auto",
        doc="Seconds without a sign of life from a training process after which it counts as hung. `auto`: 20 times "
        "the longest silence so far, between 2 and 10 minutes. Until the first step it is at least half an hour.",
        changes_result=False,
    )
    logging_steps: int = setting(10, doc="Optimizer steps between log lines.", changes_result=False, ge=1)
    grace_s: float = setting(
        25.0,
        doc="Seconds from the first SIGTERM to the end of the training processes.",
        why="5 s below the 30 s that Kubernetes grants by default",
        changes_result=False,
        ge=0,
    )
    work_dir: Path = setting(
        Path("/tmp/graft"),  # noqa: S108 (a documented default; the image sets /workspace)
        doc="The one writable place: downloads, prepared data, run files. The image sets `/workspace`.",
        changes_result=False,
    )
    log_level: Literal["debug", "info", "warning"] = setting(
        "info", doc="`debug` shows the training processes' own output too.", changes_result=False
    )
    debug: bool = setting(False, doc="Print tracebacks.", changes_result=False)

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if self.dataset_weights and len(self.dataset_weights) != len(self.dataset_uri):
            raise ValueError(
                f"JOB_DATASET_WEIGHTS has {len(self.dataset_weights)} numbers for the {len(self.dataset_uri)} sources "
                "of JOB_DATASET_URI; give one for each"
            )
        if self.eval_fraction and self.eval_dataset_uri:
            raise ValueError("JOB_EVAL_FRACTION and JOB_EVAL_DATASET_URI are both set; keep one of them")
        if self.eval_steps and not self.evaluates:
            raise ValueError("JOB_EVAL_STEPS is set without rows to evaluate on; set JOB_EVAL_FRACTION=0.05 too")
        if self.max_cost and not self.gpu_hour_price:
            raise ValueError("JOB_MAX_COST is set without a price; set JOB_GPU_HOUR_PRICE too")
        return self

    @model_validator(mode="after")
    def _strategy_is_possible(self) -> Self:
        if self.strategy == "single" and (self.num_processes or 1) > 1:
            raise ValueError(f"JOB_STRATEGY=single contradicts JOB_NUM_PROCESSES={self.num_processes}; use ddp")
        if self.adapter == "qlora" and self.quantization not in ("auto", "nf4"):
            raise ValueError(
                f"JOB_ADAPTER=qlora contradicts JOB_QUANTIZATION={self.quantization}; use lora, or leave it unset"
            )
        if self.cpu_offload is True and self.strategy not in ("auto", "fsdp", "zero3"):
            raise ValueError(f"JOB_CPU_OFFLOAD=true contradicts JOB_STRATEGY={self.strategy}; use fsdp or zero3")
        if self.quantization == "int8" and self.strategy == "fsdp":
            raise ValueError(
                "JOB_STRATEGY=fsdp cannot share a base with JOB_QUANTIZATION=int8, whose scales are lost on the way; "
                "use JOB_QUANTIZATION=nf4, or JOB_STRATEGY=zero3"
            )
        if self.quantization == "int8" and self.strategy == "auto" and self.cpu_offload is True:
            raise ValueError(
                "JOB_CPU_OFFLOAD=true is done by fsdp, which contradicts JOB_QUANTIZATION=int8; leave JOB_CPU_OFFLOAD "
                "unset, or use JOB_QUANTIZATION=none"
            )
        if self.num_processes and self.global_batch_size % self.num_processes:
            raise ValueError(
                f"JOB_GLOBAL_BATCH_SIZE={self.global_batch_size} cannot be shared by "
                f"JOB_NUM_PROCESSES={self.num_processes}; make it a multiple"
            )
        return self

    @property
    def evaluates(self) -> bool:
        """Whether there are rows to evaluate on."""
        return bool(self.eval_fraction or self.eval_dataset_uri)

    @property
    def decisive(self) -> dict[str, Any]:
        """The settings that change the result."""
        fields = {name for name, info in type(self).model_fields.items() if info.json_schema_extra["changes_result"]}  # type: ignore[index]
        return self.model_dump(mode="json", include=fields)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the settings that change the result: two runs with the same one are the same run."""
        return hashlib.sha256(json.dumps(self.decisive, sort_keys=True).encode()).hexdigest()
