"""The verb ``check``: everything that can be found out without a GPU, with the exit code that the run would give.

It reads the inputs, proves that the outputs can be written, passes every row through the data gate and makes the plan.
It never claims the output, and what it prepares is kept for the run.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from job.console import Console
from job.errors import UnsuitableHost
from job.inspection import Inputs, find_inputs
from job.output import Output
from job.plan import check_host, make_plan
from job.preparation import Workshop, dataset_facts, make_task, open_workshop, prepare
from job.probing import gather
from job.processes import StopRequest, Task
from job.records import Gpu, Prepared, PrepareTask
from job.spec import JobSpec


def run_check(
    spec: JobSpec, env: Mapping[str, str], console: Console, stop: StopRequest, gpus: tuple[Gpu, ...] | None
) -> str:
    """Check *spec* for *gpus*, or for the GPUs that are here; returns what was found, in one sentence.

    Raises:
        JobError: what would end the run.
    """
    inputs = find_inputs(spec, env, stop, needs_host=False)
    if gpus is not None:
        inputs = replace(inputs, hardware=inputs.hardware.model_copy(update={"gpus": gpus}))
    knows_machine = bool(inputs.hardware.gpus) or spec.strategy == "cpu"
    if knows_machine:
        check_host(spec, inputs.hardware, inputs.model.facts.parameters)
    console.say(f"inputs\n  {', '.join([spec.model, *spec.dataset_uri])} can be read")
    for text in spec.output_uri:
        _check_output(text, spec, console, stop)
    with TemporaryDirectory() as scratch:
        shop = open_workshop(spec, env, Path(scratch) / "check.log", stop, console.event)
        _check_disk(spec, inputs, console)
        task = Task(lambda: make_task(spec, inputs, shop)).result(stop)
        prepared = _check_rows(spec, task, shop, console)
        if not knows_machine:
            console.say("plan\n  not checked: no GPU is here; name one with --gpus 1xA100-80GB")
            return "Everything but the plan was checked and is well."
        rows = dataset_facts(prepared, sampled=bool(spec.check_rows))
        console.plan(make_plan(spec, gather(spec, inputs, task.tokenizer, lambda: rows, shop)))
    return "Everything was checked and is well."


def _check_output(text: str, spec: JobSpec, console: Console, stop: StopRequest) -> None:
    output = Output(text)
    finished = Task(lambda: output.manifest(spec.fingerprint)).result(stop)
    Task(output.probe_write).result(stop)
    console.say(
        f"output\n  {text} can be written" + (", and holds the finished result of this job" if finished else "")
    )


def _check_disk(spec: JobSpec, inputs: Inputs, console: Console) -> None:
    """The model and twice the rows: once as they are, once as tokens.

    Raises:
        UnsuitableHost: they do not fit.
    """
    rows = sum(file.size for source in (*inputs.train, inputs.held_out) if source for file in source.files)
    weights = 0 if inputs.model.source.is_local else inputs.model.facts.weights_bytes
    spec.work_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(spec.work_dir).free
    if (needed := weights + 2 * rows) > free:
        raise UnsuitableHost(
            f"JOB_WORK_DIR={spec.work_dir} has {free / 2**30:,.1f} GiB left; {needed / 2**30:,.1f} GiB are needed.",
            "Give it a larger disk.",
        )
    console.say(f"disk\n  {needed / 2**30:,.1f} GiB of {free / 2**30:,.1f} GiB will be used")


def _check_rows(spec: JobSpec, task: PrepareTask, shop: Workshop, console: Console) -> Prepared:
    console.say("rows" + (f", the first {spec.check_rows:,}" if spec.check_rows else ""))
    prepared = prepare(task.model_copy(update={"row_limit": spec.check_rows}), shop)[1]
    console.rows(prepared)
    return prepared
