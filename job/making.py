"""From the inputs to an adapter with its reports in RunDir: plan → prepare → train → evaluate."""

import time
from dataclasses import replace
from pathlib import Path

from job.answers import refuse_unusable
from job.attempts import Attempt
from job.continuation import plan_to_continue
from job.deadline import Deadline
from job.durable import Durable
from job.durable_training import train_durably
from job.errors import AdapterRejected, DeadlineReached, Interrupted, JobError
from job.forecast import forecast
from job.gpu_links import prove_links
from job.inspection import Inputs
from job.judging import ask_of, judge, keep, kept
from job.outcome import upload_error
from job.output import PARTIAL, REJECTED, Output
from job.pins import decide, refuse_changes
from job.preparation import dataset_facts, make_task, prepare, prepare_sample
from job.probing import gather
from job.processes import Task
from job.publish import publish_apart
from job.records import (
    HELD_OUT,
    Decided,
    Facts,
    HeldOut,
    Judgement,
    Plan,
    Prepared,
    PrepareTask,
    StartingAdapter,
    TrainTask,
)
from job.report.made import AllAttempts, Made
from job.report.write import reported_curve, write_reports
from job.resume import bring_back, forget_all, same_work
from job.run import Run
from job.rundir import read_record, write_json
from job.tracking import tracked


def make_result(
    run: Run, inputs: Inputs, output: Output, attempt: Attempt, found: list[Durable], deadline: Deadline | None
) -> None:
    """Adapter and reports in RunDir; ``metrics.json`` is written last and says that all is complete. *found* are the
    checkpoints in the output, the newest first.

    Raises:
        DeadlineReached: the time is up; the adapter as it is has been published under ``partial/``, if it has learned.
        AdapterRejected: it is not fit to be used; it has been published under ``rejected/``, if there is any.
        JobError: whatever else ended it.
    """
    made = kept(run)
    if made:
        run.console.say("training has finished before; the adapter is yet to be judged")
        _ask_anew(run, inputs, made)
    else:
        made = _train(run, inputs, output, attempt, found, deadline)
    try:
        with run.timed("evaluate"):
            judgement = judge(run, made, deadline)
    except DeadlineReached as error:
        raise _ended_early(run, made, error, output, attempt) from error
    made = _up_to_now(run, inputs, attempt, made, judgement)
    if judgement.gate:
        run.console.gate(judgement.gate)
    run.console.scores(made.scores)
    if judgement.objection:
        raise _rejected(run, made, judgement, output, attempt)
    write_reports(made, output.place(run.spec), run.dir, run.dir.metrics)


def _ask_anew(run: Run, inputs: Inputs, made: Made) -> None:
    """Hold out what the present settings ask for, which may be more than when *made* was trained."""
    rows = None
    if run.spec.eval_generate:
        task = run.wait(lambda: make_task(run.spec, inputs, run.shop, made.prepared.template_time))
        rows, _ = _prepared(run, task, made.plan)
    ask_of(run, rows)


def _train(
    run: Run, inputs: Inputs, output: Output, attempt: Attempt, found: list[Durable], deadline: Deadline | None
) -> Made:
    """What was trained to its last step, kept on this machine.

    Raises:
        DeadlineReached, JobError: as `make_result`.
    """
    with run.timed("plan"):
        before = run.wait(lambda: output.decided(run.spec))
        task = run.wait(lambda: make_task(run.spec, inputs, run.shop, before.template_time if before else None))
        facts = gather(run.spec, inputs, task.tokenizer, lambda: prepare_sample(task, run.shop), run.shop)
        plan = _plan(run, facts, before, found)
    with run.timed("prepare"):
        if not inputs.model.source.is_local:
            run.console.weights(inputs.model.facts)
        weights = Task(lambda: inputs.model.localize(run.shop.cache / "models", weights=True))
        starting = Task(lambda: _starting(run, inputs))
        reward = Task(lambda: inputs.reward.localize(run.shop.cache) if inputs.reward else None)
        checkpoint = Task(lambda: bring_back(run, output, found, plan, before))
        rows, prepared = _prepare(run, task, plan)
        plan = _foresee(run, plan, prepared)
        durable, start = checkpoint.result(run.stop), starting.result(run.stop)
        _settle(run, output, attempt, before, run.wait(lambda: decide(plan, inputs, rows, prepared, start)), durable)
        train_task = _train_task(inputs, weights.result(run.stop), rows, prepared)
        train_task = train_task.model_copy(update={"start": start, "reward_model": reward.result(run.stop)})
    with run.timed("train"), tracked(run):
        plan, result, error = train_durably(run, plan, train_task, output, attempt, durable, deadline)
    revisions = tuple(source.revision for source in inputs.train)
    made = Made(run.spec, revisions, facts, plan, prepared, result, run.phases_s, _attempts(run, inputs, attempt))
    made = replace(made, rows=prepared.first_rows, samples=result.samples)
    if error:
        raise _ended_early(run, made, error, output, attempt)
    keep(run, made, train_task)
    return made


def _plan(run: Run, facts: Facts, before: Decided | None, found: list[Durable]) -> Plan:
    """The plan, once the machine has shown that it can carry it out. *before* is what earlier attempts have settled."""
    plan = plan_to_continue(run.spec, facts, before, found[0].layout if found else None)
    plan = prove_links(plan, run.dir.links, run.shop.env, run.stop)
    write_json(run.dir.spec, run.spec)
    write_json(run.dir.plan, plan)
    run.log.write("plan", **plan.model_dump(mode="json"))
    run.console.plan(plan)
    return plan


def _prepare(run: Run, task: PrepareTask, plan: Plan) -> tuple[Path, Prepared]:
    rows, prepared = _prepared(run, task, plan)
    # Without texts: the template's the tokenizer holds, the rows' are nobody's business.
    run.log.write(
        "prepared", **prepared.model_dump(mode="json", exclude={"chat_template": {"source"}, "first_rows": True})
    )
    run.console.rows(prepared)
    return rows, prepared


def _prepared(run: Run, task: PrepareTask, plan: Plan) -> tuple[Path, Prepared]:
    """Raises:
    BadData: rows that cannot be used, or none that a scorer could judge.
    """
    rows, prepared = prepare(task.model_copy(update={"packing": plan.packing}), run.shop)
    if run.spec.eval_generate:
        refuse_unusable(run.spec, read_record(rows / HELD_OUT, HeldOut))
    return rows, prepared


def _settle(
    run: Run, output: Output, attempt: Attempt, before: Decided | None, now: Decided, durable: list[Durable]
) -> None:
    """Note in the output and here what *now* settles for later attempts, in place of *before*: the first step is yet to
    come, or both are the same where it counts.

    Raises:
        OutputTaken: there is a checkpoint to go on from, and it is of other rows or another model.
    """
    if before and durable:
        refuse_changes(run.spec, before, now, durable[0].step)
    if not durable and not same_work(before, now):
        forget_all(run.dir)
    write_json(run.dir.decided, now)
    if now != before:
        run.wait(attempt.confirm)
        run.wait(lambda: output.mark(run.spec, now))


def _foresee(run: Run, plan: Plan, prepared: Prepared) -> Plan:
    """*plan* with time and cost for the rows that there really are."""
    if plan.forecast is None:
        return plan
    rows = dataset_facts(prepared, sampled=False)
    renewed = forecast(run.spec, plan, rows, plan.forecast.tokens_per_s, plan.forecast.why)
    run.console.forecast(run.spec, renewed, plan.num_processes)
    return plan.model_copy(update={"forecast": renewed})


def _starting(run: Run, inputs: Inputs) -> StartingAdapter | None:
    how = run.spec.adapter_start
    return inputs.adapter.localize(run.shop.cache / "adapters", how) if inputs.adapter and how else None


def _train_task(inputs: Inputs, folder: Path, rows: Path, prepared: Prepared) -> TrainTask:
    return TrainTask(
        model_path=folder.absolute(),
        data_path=rows.absolute(),
        base_model_name=inputs.model.name,
        base_model_revision=inputs.model.facts.revision,
        has_eval=prepared.eval is not None,
        chat_template=prepared.chat_template,
    )


def _attempts(run: Run, inputs: Inputs, attempt: Attempt) -> AllAttempts:
    pulses = [past.pulse for past in attempt.earlier if past.pulse]
    now_s = time.monotonic() - run.began
    return AllAttempts(
        count=len(attempt.earlier) + 1,
        elapsed_s=now_s + sum(pulse.elapsed_s for pulse in pulses),
        gpu_s=now_s * inputs.num_gpus + sum(pulse.elapsed_s * pulse.num_gpus for pulse in pulses),
    )


def _up_to_now(run: Run, inputs: Inputs, attempt: Attempt, made: Made, judgement: Judgement) -> Made:
    """*made* with *judgement* and the time that has gone meanwhile."""
    proof = made.result.adapter.model_copy(update={"gate": judgement.gate}) if made.result.adapter else None
    result = made.result.model_copy(update={"adapter": proof})
    return replace(
        made,
        result=result,
        phases_s=made.phases_s | run.phases_s,
        attempts=_attempts(run, inputs, attempt),
        scores=judgement.scores,
        answers=judgement.answers,
    )


def _rejected(run: Run, made: Made, judgement: Judgement, output: Output, attempt: Attempt) -> JobError:
    """Why the adapter is rejected, after it has been published where nobody takes it for a result."""
    cause = judgement.objection or ""
    place = f"{output.text.rstrip('/')}/{REJECTED}"
    failure = _set_apart(run, replace(made, set_apart="rejected", objection=cause), REJECTED, output, attempt, cause)
    if not judgement.scores:  # else it is kept to be judged by other settings
        run.dir.made.unlink()  # whoever removes what was rejected wants it made anew
    return failure or AdapterRejected(f"{cause} The adapter as it is is in {place}.", judgement.fix, published=True)


def _ended_early(run: Run, made: Made, error: JobError, output: Output, attempt: Attempt) -> JobError:
    """*error*, after the adapter as it is has been published if it is the time that is up."""
    step = f"step {made.result.steps} of {made.result.total_steps}"
    if isinstance(error, Interrupted):
        return Interrupted(f"{error.cause} Training stopped after {step}.")
    if not isinstance(error, DeadlineReached) or made.result.adapter is None:
        return error
    place = f"{output.text.rstrip('/')}/{PARTIAL}"
    failure = _set_apart(run, replace(made, set_apart="partial"), PARTIAL, output, attempt)
    return failure or DeadlineReached(f"{error.cause} The adapter of {step} is in {place}.", error.fix, published=True)


def _set_apart(run: Run, made: Made, folder: str, output: Output, attempt: Attempt, cause: str = "") -> JobError | None:
    """Publish what is no success under *folder*; what went wrong with it, if something did."""
    write_reports(made, output.place(run.spec, folder), run.dir, run.dir.partial_metrics)
    run.console.curve(reported_curve(run.dir.partial_metrics))

    def upload() -> None:
        attempt.confirm()
        publish_apart(output, folder, run.dir, run.spec, attempt.number, cause)

    try:
        run.wait(upload, patience_s=run.spec.grace_s)
    except JobError as failure:
        return upload_error(failure)
    return None
