"""What goes in and where the result goes: model, rows, output."""

from typing import Literal

from pydantic import BaseModel

from job.kinds import Auto, ChatTemplate, Column, DatasetUris, ModelUri, OutputUris, Weight
from job.records import Allowance, Format
from job.settings.setting import setting


class InputSettings(BaseModel):
    """What goes in and where the result goes: model, rows, output."""

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
