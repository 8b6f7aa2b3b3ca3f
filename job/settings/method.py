"""How the model is taught."""

from typing import Literal

from pydantic import BaseModel

from job.kinds import TrainerArgs
from job.settings.setting import setting


class MethodSettings(BaseModel):
    """How the model is taught."""

    method: Literal["sft"] = setting("sft", doc="Training method.", why="supervised fine-tuning comes first")
    trainer_args: TrainerArgs = setting(
        {}, doc='Any other field of TRL\'s `SFTConfig`, as JSON: `{"adam_beta2": 0.95}`.'
    )
