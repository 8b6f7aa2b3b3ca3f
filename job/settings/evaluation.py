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
    load_best_model_at_end: bool = setting(
        True,
        doc="Publish the adapter as it was at the evaluation that was best, not as it is after the last step. Without "
        "rows to evaluate on it is the last.",
        why="what is overfitted is not handed out",
    )
    early_stopping_patience: int | None = setting(
        None,
        doc="End training after so many evaluations in a row that are no better than the best before.",
        why="all steps are trained",
        ge=1,
    )
    early_stopping_threshold: float = setting(
        0.0, doc="By how much an evaluation must be better to count as better.", why="by anything", ge=0
    )
    eval_steps: int | None = setting(
        None, doc="Optimizer steps between evaluations.", why="once per epoch and at least five times a run", ge=1
    )
