"""What the result is measured by."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from job.kinds import DatasetUri, JsonObject, Pattern
from job.scores import schema_fault
from job.settings.setting import setting


def _schema(schema: JsonObject) -> JsonObject:
    if fault := schema_fault(schema):
        raise ValueError(f"not a JSON schema: {fault}")
    return schema


Share = Annotated[float, Field(gt=0, le=1)]


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
        why="what is overfitted is not handed out; `false` for `JOB_ADAPTER=full`, of which every process would hold "
        "two",
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
    eval_generate: int = setting(
        0,
        doc="Held-out rows to answer after training, by the base model and by the adapter, so that "
        "JOB_EVAL_SCORERS can compare both. The first ones; answers are greedy.",
        why="answers take time that only an evaluation needs",
        changes_result=False,
        ge=0,
    )
    eval_scorers: tuple[str, ...] = setting(
        (),
        doc="What the answers are judged by, each from 0 to 1. `exact_match`: the answer is the row's; `contains`: it "
        "contains it; `numeric_answer`: it ends in the same number; `rouge_l`: how much of both is one sequence of "
        "words (F-measure); `classification`: it begins with the row's label, with the F1 of each class; `regex`: "
        "JOB_EVAL_PATTERN is found in it; `json_valid`: it is JSON; `json_schema`: and has JOB_EVAL_SCHEMA; `length`: "
        "it is neither empty nor longer than 500 characters.",
        why="`numeric_answer` where the rows' answers end in `####` and a number, as GSM8K's do, else `exact_match` "
        "and `rouge_l`",
        changes_result=False,
    )
    eval_pattern: Pattern | None = setting(
        None,
        doc="For the scorer `regex`: what to find in an answer, in the syntax of Python's `regex` package.",
        changes_result=False,
    )
    eval_schema: Annotated[JsonObject, AfterValidator(_schema)] | None = setting(
        None,
        doc="For the scorer `json_schema`: the JSON schema of a good answer, as JSON.",
        changes_result=False,
    )
    eval_max_new_tokens: int = setting(
        256,
        doc="Tokens of the longest answer to a held-out row; longer ones are cut off there.",
        changes_result=False,
        ge=1,
    )
    min_score: dict[str, Share] = setting(
        {},
        doc="What the adapter must reach at least, by scorer: `numeric_answer=0.3`. Below it the run ends with 92 and "
        "the adapter is left under `rejected/`.",
        why="what is good enough cannot be guessed",
        changes_result=False,
    )
    eval_samples: int = setting(
        0,
        doc="Held-out rows to answer at every evaluation while training goes on, for the report.",
        why="they take time from training",
        changes_result=False,
        ge=0,
        le=16,
    )
