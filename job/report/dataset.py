"""``dataset_report.json``: what the rows were like, published with the result so that it can be judged later."""

from pydantic import Field

from job.records import Findings, Plan, Prepared, Record, SplitStats
from job.spec import JobSpec

SCHEMA_VERSION = 1


class SplitReport(Record):
    """One split. Rows and tokens are counted after truncation to max_length."""

    rows: int = Field(description="Rows that are used.")
    sequences: int = Field(description="What the trainer iterates over: rows, or packs of rows.")
    tokens: int = Field(
        description="Tokens in those rows that pass through the model: of a pair those of both answers, each with its "
        "prompt."
    )
    mean_tokens: float = Field(description="tokens / rows.")
    max_tokens: int = Field(description="The longest row, of a pair its longer sequence.")
    lengths: tuple[int, ...] = Field(
        description="Tokens of the shortest row, of those at every further 5 % by length, and of the longest."
    )
    trained_tokens: int = Field(description="Tokens that carry loss.")
    trained_share: float = Field(description="trained_tokens / tokens.")
    truncated_rows: int = Field(description="Rows cut at max_length.")
    truncated_tokens: int = Field(description="Tokens cut off.")
    good_rows: int = Field(description="Rows of answers labelled as good; 0 where rows have no label.")
    dropped_rows: int = Field(description="Rows left out because nothing to learn remained after the cut.")
    dropped_tokens: int = Field(description="Tokens in those rows.")
    packing_fill: float | None = Field(description="tokens / (sequences × max_length); null without packing.")


class DatasetReport(Record):
    """The file."""

    schema_version: int = Field(description="1. It grows when a field changes its meaning or goes away.")
    uris: tuple[str, ...] = Field(description="As given in JOB_DATASET_URI.")
    revisions: tuple[str | None, ...] = Field(description="Commit of each on the Hub; null elsewhere.")
    format: str = Field(description="Format of the rows.")
    format_reason: str = Field(description="How it was recognised.")
    chat_template: str | None = Field(
        description="What rendered conversations, with the reason; null where no row is one."
    )
    max_length: int = Field(description="Tokens at which rows are cut.")
    train: SplitReport = Field(description="The training rows.")
    eval: SplitReport | None = Field(description="The evaluation rows; null without them.")
    findings: Findings = Field(description="What the data gate counted.")


def make_dataset_report(
    spec: JobSpec, prepared: Prepared, revisions: tuple[str | None, ...], plan: Plan
) -> DatasetReport:
    """What is known of the rows that *plan* trains on."""
    return DatasetReport(
        schema_version=SCHEMA_VERSION,
        uris=spec.dataset_uri,
        revisions=revisions,
        format=prepared.format,
        format_reason=prepared.format_reason,
        chat_template=str(prepared.chat_template) if prepared.chat_template else None,
        max_length=plan.max_length,
        train=_split(prepared.train, plan),
        eval=_split(prepared.eval, plan) if prepared.eval else None,
        findings=prepared.findings,
    )


def _split(stats: SplitStats, plan: Plan) -> SplitReport:
    capacity = stats.sequences * plan.max_length
    return SplitReport(
        **stats.model_dump(),
        mean_tokens=round(stats.tokens / stats.rows, 1),
        trained_share=round(stats.trained_tokens / stats.tokens, 4),
        packing_fill=round(stats.tokens / capacity, 4) if plan.packing else None,
    )
