"""The rows and the model of a run, which its settings only name: what is trained on once stays for all attempts."""

import hashlib
from pathlib import Path

from job.errors import OutputTaken
from job.inspection import Inputs
from job.records import Decided, Plan, Prepared, StartingAdapter
from job.spec import JobSpec
from job.storage.transfer import sha256_of


def decide(plan: Plan, inputs: Inputs, rows: Path, prepared: Prepared, start: StartingAdapter | None = None) -> Decided:
    """What an attempt under *plan*, with the prepared *rows*, settles for later ones."""
    return Decided(
        quantization=plan.quantization,
        packing=plan.packing,
        model=inputs.model.pin,
        rows=_pin(rows),
        adapter=start.identity if start else None,
        revisions=inputs.revisions,
        template_time=prepared.template_time,
    )


def refuse_changes(spec: JobSpec, before: Decided, now: Decided, step: int) -> None:
    """See that the checkpoint of *step*, made under *before*, is of the same rows and model as *now*. What an
    earlier version has not noted is not known, and nothing is refused for it.

    Raises:
        OutputTaken: it is not.
    """
    work = f"the checkpoint of step {step} in JOB_OUTPUT_URI={spec.output_uri[0]} was trained on"
    if before.model not in (None, now.model):
        raise OutputTaken(f"JOB_MODEL={spec.model} has changed: it is not what {work}.", _RESTORE)
    if before.adapter not in (None, now.adapter):
        raise OutputTaken(
            f"JOB_ADAPTER_URI={spec.adapter_uri} has changed: it is not what the checkpoint of step {step} began from.",
            _RESTORE,
        )
    if before.rows not in (None, now.rows):
        raise OutputTaken(f"{_sources(spec)} has changed: it does not give the rows that {work}.", _RESTORE)


_RESTORE = "Restore it as it was to go on from there, or choose another JOB_OUTPUT_URI to begin anew."


def _sources(spec: JobSpec) -> str:
    """The settings that name what the rows are made of."""
    named = {
        "JOB_DATASET_URI": ",".join(spec.dataset_uri),
        "JOB_EVAL_DATASET_URI": spec.eval_dataset_uri,
        "JOB_CHAT_TEMPLATE": spec.chat_template,
    }
    return " or ".join(f"{name}={value}" for name, value in named.items() if value)


def _pin(rows: Path) -> str:
    """A hash of the prepared *rows*, which are the same bytes wherever and by however many processes they are made."""
    sums = [sha256_of(rows / f"{split}.arrow") for split in ("train", "eval")]
    return hashlib.sha256("".join(sums).encode()).hexdigest()
