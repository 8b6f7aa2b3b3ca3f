"""The verb ``check``: everything that can be found out without a GPU, with the exit code that the run would give.

It reads the inputs, proves that the outputs can be written, passes every row through the data gate and makes the plan.
It never claims the output, and what it prepares is kept for the run.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from job.console import Console
from job.host import check_machine
from job.inspection import Inputs, find_inputs
from job.output import Output
from job.plan import check_host, make_plan
from job.preparation import Workshop, dataset_facts, make_task, open_workshop, prepare
from job.probing import gather
from job.processes import StopRequest, Task
from job.records import Gpu, Prepared, PrepareTask
from job.spec import JobSpec
from job.tracking import check_trackers


def run_check(
    spec: JobSpec, env: Mapping[str, str], console: Console, stop: StopRequest, gpus: tuple[Gpu, ...] | None
) -> str:
    """Check *spec* for *gpus*, or for the GPUs that are here; returns what was found, in one sentence.

    Raises:
        JobError: what would end the run.
    """
    check_trackers(spec, env)
    here = find_inputs(spec, env, stop, needs_host=False)
    # GPUs that are not here have neither a driver nor neighbours that could be looked at.
    disks = check_machine(spec, here if gpus is None else _with_gpus(here, ()), env, stop)
    inputs = here if gpus is None else _with_gpus(here, gpus)
    knows_machine = bool(inputs.hardware.gpus) or spec.strategy == "cpu"
    if knows_machine:
        check_host(spec, inputs.hardware, inputs.model.facts.parameters)
    console.say(f"inputs\n  {', '.join([spec.model, *spec.dataset_uri])} can be read")
    for disk in disks:
        where = " and ".join(disk.settings)
        console.say(f"disk\n  {disk.needed / 2**30:,.1f} GiB of {disk.free / 2**30:,.1f} GiB will be used by {where}")
    for text in spec.output_uri:
        _check_output(text, spec, console, stop)
    with TemporaryDirectory() as scratch:
        shop = open_workshop(spec, env, Path(scratch) / "check.log", stop, console.event)
        task = Task(lambda: make_task(spec, inputs, shop)).result(stop)
        prepared = _check_rows(spec, task, shop, console)
        if not knows_machine:
            console.say("plan\n  not checked: no GPU is here; name one with --gpus 1xA100-80GB")
            return "Everything but the plan was checked and is well."
        rows = dataset_facts(prepared, sampled=bool(spec.check_rows))
        console.plan(make_plan(spec, gather(spec, inputs, task.tokenizer, lambda: rows, shop)))
    return "Everything was checked and is well."


def _with_gpus(inputs: Inputs, gpus: tuple[Gpu, ...]) -> Inputs:
    return replace(inputs, hardware=inputs.hardware.model_copy(update={"gpus": gpus}))


def _check_output(text: str, spec: JobSpec, console: Console, stop: StopRequest) -> None:
    output = Output(text)
    finished = Task(lambda: output.look(spec)).result(stop)
    Task(output.probe_write).result(stop)
    console.say(
        f"output\n  {text} can be written" + (", and holds the finished result of this job" if finished else "")
    )


def _check_rows(spec: JobSpec, task: PrepareTask, shop: Workshop, console: Console) -> Prepared:
    console.say("rows" + (f", the first {spec.check_rows:,}" if spec.check_rows else ""))
    prepared = prepare(task.model_copy(update={"row_limit": spec.check_rows}), shop)[1]
    console.rows(prepared)
    return prepared
