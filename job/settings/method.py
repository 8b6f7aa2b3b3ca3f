"""How the model is taught."""

from pydantic import BaseModel

from job.kinds import LossTypes, MethodName, TrainerArgs
from job.methods import told
from job.settings.setting import setting


class MethodSettings(BaseModel):
    """How the model is taught."""

    method: MethodName = setting(
        "sft",
        doc="Training method: `sft` learns answers, `dpo` that one answer is better than another, `kto` that an answer "
        "is good or bad, `reward` trains a model that scores answers, and `rloo` and `grpo` have the model answer "
        "itself and learn from rewards. docs/methods.md says which rows each needs.",
        why="supervised fine-tuning comes first",
    )
    loss_type: LossTypes = setting(
        (),
        doc="TRL's loss of the method. For `dpo` several, separated by commas, are added up; their shares are "
        "`loss_weights` in `JOB_TRAINER_ARGS`.",
        why=told("loss_type"),
    )
    beta: float | None = setting(
        None,
        doc="How far the model may move from its reference: higher is nearer.",
        why=told("beta"),
        ge=0,
    )
    desirable_weight: float | None = setting(
        None, doc="For `kto`: factor of the loss of good answers.", why=told("desirable_weight"), gt=0
    )
    undesirable_weight: float | None = setting(
        None,
        doc="For `kto`: factor of the loss of bad answers. Of good rows times their weight there should be 1 to 4/3 "
        "times as much as of bad ones (KTO, arXiv 2402.01306, equation 8).",
        why=told("undesirable_weight"),
        gt=0,
    )
    trainer_args: TrainerArgs = setting(
        {},
        doc="Any other field of the TRL configuration of the method (`SFTConfig`, `DPOConfig`, …), as JSON: "
        '`{"adam_beta2": 0.95}`.',
    )
