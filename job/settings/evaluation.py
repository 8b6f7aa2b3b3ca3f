"""What the result is measured by."""

from pydantic import BaseModel

from job.kinds import DatasetUri
from job.settings.setting import setting


class EvaluationSettings(BaseModel):
    """What the result is measured by."""

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
