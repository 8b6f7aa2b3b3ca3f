"""The steps of training."""

from pydantic import BaseModel

from job.kinds import Auto, JsonObject, Optim, Scheduler
from job.methods import METHODS
from job.optimizers import OPTIMIZERS
from job.settings.setting import setting


class OptimizationSettings(BaseModel):
    """The steps of training."""

    num_train_epochs: float = setting(3.0, doc="Passes over the data.", why="usual for small sets", gt=0)
    max_steps: int | None = setting(
        None, doc="Optimizer steps; takes precedence over the epochs.", why="the epochs decide", ge=1
    )
    learning_rate: float | None = setting(
        None,
        doc="Peak learning rate. The defaults are for LoRA; `ia3` and `vera` take 15 and 10 times as much, `prefix` "
        "and `prompt` 50 times ([why](adapters.md)).",
        why="; ".join(f"`{method.learning_rate:g}` for {name}: {method.why}" for name, method in METHODS.items()),
        gt=0,
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
    gradient_checkpointing: bool | Auto = setting(
        "auto",
        doc="Recompute activations in the backward pass to save memory.",
        why="off where the memory allows it, as it costs a third more arithmetic",
        changes_result=False,
    )
    lr_scheduler_kwargs: JsonObject = setting(
        {},
        doc='Arguments of the schedule, as JSON: `{"min_lr_rate": 0.1}` for `cosine_with_min_lr`, `{"num_cycles": 3}` '
        'for `cosine_with_restarts`, `{"num_decay_steps": 100}` for `warmup_stable_decay`.',
    )
    neftune_noise_alpha: float | None = setting(
        None,
        doc="Noise on the embeddings while training, for `sft` (NEFTune, arXiv 2310.05914): 5 is usual.",
        why="no noise unasked",
        gt=0,
    )
    weight_decay: float = setting(0.01, doc="AdamW weight decay.", ge=0)
    max_grad_norm: float = setting(1.0, doc="Gradient clipping norm; 0 turns it off.", ge=0)
    optim: Optim = setting(
        "auto",
        doc="Optimizer, by the Trainer's name: " + ", ".join(f"`{name}`" for name in OPTIMIZERS) + ".",
        why="`adamw_torch_fused`, AdamW in one kernel; over a 4-bit base on one GPU or under ddp `paged_adamw_32bit`, "
        "whose states give way to the host's memory at a peak (QLoRA, arXiv 2305.14314)",
    )
    seed: int = setting(42, doc="Seed of adapter initialisation, data order and dropout.", ge=0, lt=2**32)
