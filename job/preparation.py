"""Runs ``job.prepare`` as a child process, and keeps what it makes for the next attempt."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from job import __version__
from job.batch import effective_max_length
from job.events import EventTail
from job.inputs import data_files
from job.inspection import Inputs
from job.processes import Child, StopRequest, children_env
from job.records import PROGRESS, DatasetFacts, GateSettings, Prepared, PrepareTask, Preview, PromptSettings
from job.rewards import rewarded
from job.rundir import read_record, write_json
from job.scores import SCORES
from job.spec import JobSpec

Show = Callable[[dict[str, Any]], None]

# More would wait for the one that reads and writes.
MAX_PROCESSES = 16
SAMPLE_ROWS = 1000  # enough for a mean length within a few percent, tokenized in a fraction of a second
# Whatever renders, tokenizes or builds a mask: another version may do it differently.
_PREPARE_PACKAGES = ("transformers", "tokenizers", "jinja2")


@dataclass(frozen=True)
class Workshop:
    """Where child processes work: their cache, their log, their environment, and who is shown their events."""

    cache: Path
    log: Path
    env: Mapping[str, str]
    stop: StopRequest
    show: Show


def open_workshop(spec: JobSpec, env: Mapping[str, str], log: Path, stop: StopRequest, show: Show) -> Workshop:
    """The workshop of a job."""
    return Workshop(spec.work_dir.absolute() / "cache", log, children_env(env), stop, show)


def make_task(spec: JobSpec, inputs: Inputs, shop: Workshop, template_time: datetime | None = None) -> PrepareTask:
    """The task of preparing every row unpacked, once the datasets and the tokenizer are on this machine. A chat
    template that asks for the date gets *template_time*, or else the present."""
    datasets, model, held_out = shop.cache / "datasets", inputs.model, inputs.held_out
    return PrepareTask(
        method=spec.method,
        train_files=data_files(inputs.train, spec.dataset_weights, datasets),
        eval_files=data_files([held_out], (), datasets) if held_out else (),
        tokenizer=model.localize(shop.cache / "models", weights=False),
        tokenizer_identity=model.facts.identity,
        columns={str(name): column for name, column in spec.columns.items()},
        format=spec.format,
        response_template=spec.response_template,
        chat_template=inputs.chat_template,
        gate=GateSettings(bad_rows=spec.bad_rows, max_bad_fraction=spec.max_bad_fraction, allow=spec.allow),
        max_length=effective_max_length(spec, model.facts),
        model_max_length=model.facts.max_length,
        eval_fraction=spec.eval_fraction,
        seed=spec.seed,
        packing=False,
        held_out_prompts=max(spec.eval_generate, spec.eval_samples),
        answer_tokens=spec.eval_max_new_tokens if spec.eval_generate or spec.eval_samples else 0,
        prompts=prompt_settings(spec),
        template_time=template_time,
        processes=min(inputs.hardware.cpus, MAX_PROCESSES),
    )


def prompt_settings(spec: JobSpec) -> PromptSettings | None:
    """What prompts are to be judged by, where the model answers them itself."""
    if spec.max_completion_length is None:
        return None
    return PromptSettings(
        scores=tuple(name for name in rewarded(spec) if name in SCORES),
        marker=spec.reward_marker,
        max_completion_length=spec.max_completion_length,
        per_step=spec.global_batch_size // (spec.num_generations or 1),
    )


def prepare_sample(task: PrepareTask, shop: Workshop) -> DatasetFacts:
    """What the first rows of all sources are like, without splitting, weighting or packing them."""
    files = tuple(file.model_copy(update={"weight": 1.0}) for file in task.train_files)
    # Shares are judged over all rows: the first ones may be worse than the rest.
    gate = task.gate.model_copy(
        update={"max_bad_fraction": 1.0, "allow": (*task.gate.allow, "truncation", "nothing_to_learn")}
    )
    update = {
        "row_limit": SAMPLE_ROWS, "eval_fraction": 0.0, "eval_files": (), "train_files": files, "gate": gate,
        "held_out_prompts": 0,
    }  # fmt: skip
    return dataset_facts(prepare(task.model_copy(update=update), shop)[1], sampled=True)


def dataset_facts(prepared: Prepared, *, sampled: bool) -> DatasetFacts:
    """What the plan needs to know of the rows."""
    train = prepared.train
    return DatasetFacts(
        rows=train.rows,
        epoch_rows=_epoch_rows(prepared) if sampled else train.rows,
        sampled=sampled,
        mean_tokens=train.tokens / train.rows,
        max_tokens=train.max_tokens,
        lengths=train.lengths,
        trained_share=train.trained_tokens / train.tokens,
        format=prepared.format,
        format_reason=prepared.format_reason,
    )


def _epoch_rows(sample: Prepared) -> int | None:
    """All rows, if they are like those of *sample*. Readers run ahead of what they hand out, so that of a file little
    larger than the sample nothing is known."""
    seen = sample.train.rows + sample.train.dropped_rows + sample.findings.bad_rows
    if seen < SAMPLE_ROWS:
        return sample.train.rows
    return round(sample.train.rows / sample.read_share) if sample.read_share < 1 else None


def prepare(task: PrepareTask, shop: Workshop) -> tuple[Path, Prepared]:
    """The folder with the Arrow files of *task*, made now or by an earlier attempt.

    Raises:
        BadData: rows that cannot be used.
    """
    folder = shop.cache / "prepared" / cache_key(task.model_dump_json(exclude=_OF_THIS_MACHINE), _PREPARE_PACKAGES)
    if not (folder / "prepared.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".prepare-") as scratch:
            out = Path(scratch)
            write_json(out / "task.json", task)
            events = EventTail(out / PROGRESS)
            child = Child("job.prepare", ["rows", out / "task.json", out], out / "error.json", shop.log, shop.env)
            child.wait(shop.stop, lambda: _show(events, shop))
            shutil.rmtree(folder, ignore_errors=True)
            out.rename(folder)
            out.mkdir()  # for the context manager to remove
    return folder, read_record(folder / "prepared.json", Prepared)


def _show(events: EventTail, shop: Workshop) -> None:
    for event in events.new():
        shop.show(event)


def preview(task: PrepareTask, rows: int, shop: Workshop) -> Preview:
    """The first *rows* of *task* as the model sees them.

    Raises:
        BadData: one of them cannot be used.
    """
    shop.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=shop.cache, prefix=".preview-") as scratch:
        out = Path(scratch)
        write_json(out / "task.json", task.model_copy(update={"row_limit": rows}))
        Child("job.prepare", ["preview", out / "task.json", out], out / "error.json", shop.log, shop.env).wait(
            shop.stop
        )
        return read_record(out / "preview.json", Preview)


_OF_THIS_MACHINE: dict[str, Any] = {
    "tokenizer": True,
    "processes": True,
    "train_files": {"__all__": {"path"}},
    "eval_files": {"__all__": {"path"}},
}


def cache_key(content: str, packages: tuple[str, ...]) -> str:
    """A name for what this version of the job makes of *content* with these versions of *packages*."""
    versions = [f"{name}={version(name)}" for name in packages]
    return hashlib.sha256("\n".join([__version__, *versions, content]).encode()).hexdigest()[:24]
