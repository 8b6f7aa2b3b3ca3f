"""Runs ``job.probe`` as child processes beside other work, and puts together the facts that a plan is made of."""

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from job.activations import formula_holds
from job.adapters import KINDS, peft_fields
from job.batch import effective_max_length
from job.compatibility import can_pack
from job.inspection import Inputs
from job.preparation import Workshop, cache_key
from job.processes import Child
from job.records import DatasetFacts, DryRun, DryRunTask, Facts, ModelFacts, PackingProbe, Record
from job.rundir import read_record, write_json
from job.spec import JobSpec

RecordT = TypeVar("RecordT", bound=Record)

_PACKAGES = ("transformers", "torch", "peft")


class ProbeRun(Generic[RecordT]):
    """``python -m job.probe.NAME``, started now; what it finds is kept by *content* and the versions of libraries."""

    def __init__(self, name: str, kind: type[RecordT], content: str, asked: Path | Record, shop: Workshop) -> None:
        """*asked*: what the module gets, a folder or the task that it is told in a file."""
        folder = shop.cache / "probes" / name / cache_key(content, _PACKAGES)
        self._found, self._kind, self._shop = folder / f"{name}.json", kind, shop
        self._child: Child | None = None
        if not self._found.exists():
            folder.mkdir(parents=True, exist_ok=True)
            arguments = [asked if isinstance(asked, Path) else _write_task(folder, asked), folder]
            self._child = Child(f"job.probe.{name}", arguments, folder / "error.json", shop.log, shop.env)

    def result(self) -> RecordT:
        """Wait for the probe.

        Raises:
            JobError: the probe process failed.
        """
        if self._child:
            self._child.wait(self._shop.stop)
        return read_record(self._found, self._kind)


def _write_task(folder: Path, task: Record) -> Path:
    write_json(folder / "task.json", task)
    return folder / "task.json"


def gather(
    spec: JobSpec, inputs: Inputs, model_folder: Path, find_rows: Callable[[], DatasetFacts], shop: Workshop
) -> Facts:
    """All facts; *model_folder* has the model's config.json, and *find_rows* is called while the probes run."""
    packs = spec.method == "sft" and spec.packing is not False and can_pack(spec)
    packing = _packing_run(model_folder, shop) if packs else None
    measured = not KINDS[spec.adapter].is_prompt and not formula_holds(spec, inputs.model.facts.config)
    dry_run = None if not measured else _dry_run(spec, inputs.model.facts, model_folder, shop)
    return Facts(
        hardware=inputs.hardware,
        model=inputs.model.facts,
        dataset=find_rows(),
        packing=packing.result() if packing else None,
        reward_parameters=inputs.reward.base.facts.parameters if inputs.reward else 0,
        dry_run=dry_run.result() if dry_run else None,
    )


def _packing_run(model_folder: Path, shop: Workshop) -> ProbeRun[PackingProbe]:
    return ProbeRun("packing", PackingProbe, (model_folder / "config.json").read_text(), model_folder, shop)


def _dry_run(spec: JobSpec, model: ModelFacts, model_folder: Path, shop: Workshop) -> ProbeRun[DryRun]:
    task = DryRunTask(
        model_path=model_folder,
        adapter=spec.adapter,
        fields=peft_fields(spec),
        # The most that the plan can come to: whether rows are packed or padded it decides later.
        tokens=effective_max_length(spec, model),
        masked=True,
    )
    content = task.model_dump_json(exclude={"model_path"}) + (model_folder / "config.json").read_text()
    return ProbeRun("activations", DryRun, content, task, shop)
