"""The same rows prepared by the job and by TRL's SFTTrainer, without a model."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, Json, Value, disable_progress_bars
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer
from trl.chat_template_utils import get_training_chat_template, has_generation_markers

from job.prepare.encode import IGNORED
from job.prepare.story import prepare
from job.records import DataFile, GateSettings, Prepared, PrepareTask

Fields = dict[str, Any]  # a row of a data set, or of what was prepared

disable_progress_bars()
_KINDS = {str: Value("string"), bool: Value("bool")}
_ANYTHING = GateSettings(
    bad_rows="skip", max_bad_fraction=1.0, allow=("truncation", "nothing_to_learn", "untrained_end")
)


def ours(rows: list[Fields], tokenizer: Path, max_length: int = 4096, **settings: Any) -> list[Fields]:
    """What `prepare` makes of *rows*, in the order of the Arrow file; none of them may be refused."""
    prepared, kept = _prepare(rows, tokenizer, max_length, settings)
    assert prepared.findings.first_bad_rows == ()
    return kept


def ours_one_by_one(rows: list[Fields], tokenizer: Path, **settings: Any) -> list[Fields | str]:
    """What `prepare` makes of each of *rows*: the prepared row, or why it is refused. The first one must not be."""
    prepared, kept = _prepare(rows, tokenizer, 4096, settings)
    refused = {int(re.match(r"rows\.jsonl:(\d+): ", said)[1]): said for said in prepared.findings.first_bad_rows}
    assert len(kept) + len(refused) == len(rows)
    rest = iter(kept)
    return [refused.get(number) or next(rest) for number in range(1, len(rows) + 1)]


def _prepare(rows: list[Fields], tokenizer: Path, max_length: int, settings: Fields) -> tuple[Prepared, list[Fields]]:
    scratch = tokenizer / "prepared"
    scratch.mkdir(exist_ok=True)
    path = scratch / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    defaults = {"columns": {}, "format": None, "response_template": None, "packing": False, "gate": _ANYTHING}
    task = PrepareTask(
        train_files=(DataFile(path=path, name=path.name, identity=""),), tokenizer=tokenizer, tokenizer_identity="",
        max_length=max_length, eval_fraction=0.0, seed=1, **(defaults | settings),
    )  # fmt: skip
    prepared = prepare(task, scratch)
    with pa.memory_map(str(scratch / "train.arrow")) as source:
        return prepared, pa.ipc.open_stream(source).read_all().to_pylist()


def theirs(rows: list[Fields], tokenizer: Path, max_length: int = 4096, packing: bool = False) -> list[Fields]:
    """What SFTTrainer makes of *rows* with the settings that fit their columns. Raises whatever it raises."""
    processing_class, args = load(tokenizer), config(rows, tokenizer, max_length=max_length, packing=packing)
    trainer = SimpleNamespace(
        _tokenizer=processing_class,
        completion_only_loss="prompt" in rows[0],
        chat_template=_training_template(processing_class) if args.assistant_only_loss else None,
    )
    ready = SFTTrainer._prepare_dataset(trainer, dataset_of(rows), processing_class, args, packing, None, "train")
    return ready.select_columns(["input_ids", "labels"] + (["seq_lengths"] if packing else [])).to_list()


def config(rows: list[Fields], folder: Path, **settings: Any) -> SFTConfig:
    return SFTConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, assistant_only_loss="messages" in rows[0], **settings
    )


def dataset_of(rows: list[Fields]) -> Dataset:
    """*rows* each as it stands, as ``load_dataset`` reads them from JSON Lines."""
    # As columns of columns, every message and every tool call would have the fields and arguments of all.
    features = {column: _KINDS.get(type(value), Json()) for column, value in rows[0].items()}
    return Dataset.from_list(rows, features=Features(features))


def theirs_one_by_one(rows: list[Fields], tokenizer: Path) -> list[Fields | str]:
    """What SFTTrainer makes of each of *rows*, or what it raises; it would raise for the whole data set."""
    refused = {number: said for number, row in enumerate(rows) if (said := _raised(row, tokenizer))}
    taken = [row for number, row in enumerate(rows) if number not in refused]
    prepared = theirs(taken, tokenizer) if taken else []
    assert len(prepared) == len(taken), "TRL drops rows with nothing to learn, and does not say which"
    rest = iter(prepared)
    return [refused.get(number) or next(rest) for number in range(len(rows))]


def _raised(row: Fields, tokenizer: Path) -> str:
    """What rendering *row*, a conversation, raises; it is looked at apart, because a data set takes longer."""
    processing_class = load(tokenizer)
    try:
        template = _training_template(processing_class) if "messages" in row else None
        messages = row["messages"] if "messages" in row else row["prompt"] + row["completion"]
        for part in (messages, row.get("prompt", messages)):
            processing_class.apply_chat_template(part, chat_template=template, tools=row.get("tools"), tokenize=False)
    except Exception as error:  # a template may raise anything
        return f"{type(error).__name__}: {error}"
    return ""


def _training_template(processing_class: PreTrainedTokenizerBase) -> str | None:
    marked = has_generation_markers(processing_class.chat_template)
    return None if marked else get_training_chat_template(processing_class)


_loaded: dict[Path, PreTrainedTokenizerBase] = {}


def load(tokenizer: Path) -> PreTrainedTokenizerBase:
    """The tokenizer as SFTTrainer loads it."""
    if tokenizer not in _loaded:
        _loaded[tokenizer] = AutoTokenizer.from_pretrained(tokenizer)
    return _loaded[tokenizer]


def trained(row: Fields, tokenizer: Path) -> list[str]:
    """The stretches of text in *row* that carry loss."""
    pieces: list[list[int]] = [[]]
    for label in row["labels"]:
        if label != IGNORED:
            pieces[-1].append(label)
        elif pieces[-1]:
            pieces.append([])
    return [load(tokenizer).decode(piece) for piece in pieces if piece]
