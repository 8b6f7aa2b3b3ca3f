"""The story of a judgement: the adapter gate, and then what the adapter makes of rows that were held out."""

import transformers
from transformers import AutoTokenizer

from job.answers import shortfall
from job.errors import AdapterRejected
from job.evaluate.answers import compare
from job.evaluate.gate import pass_gate
from job.events import EventLog
from job.records import HELD_OUT, EvaluateTask, HeldOut, Judgement
from job.rundir import RunDir, read_record, write_json
from job.spec import JobSpec


def evaluate(run_dir: RunDir) -> None:
    """Write ``judgement.json`` about the adapter of ``evaluate_task.json``."""
    spec = read_record(run_dir.spec, JobSpec)
    task = read_record(run_dir.evaluate_task, EvaluateTask)
    transformers.logging.set_verbosity_warning()
    transformers.utils.logging.disable_progress_bar()
    write_json(run_dir.judgement, _judge(spec, task, run_dir))


def _judge(spec: JobSpec, task: EvaluateTask, run_dir: RunDir) -> Judgement:
    try:
        model, figures = pass_gate(spec, task, run_dir.proof_logits)
    except AdapterRejected as found:
        return Judgement(objection=found.cause, fix=found.fix)
    if not spec.eval_generate:
        return Judgement(gate=figures)
    rows = read_record(task.train.data_path / HELD_OUT, HeldOut).rows[: spec.eval_generate]
    tokenizer = AutoTokenizer.from_pretrained(task.adapter, trust_remote_code=False)
    scores, answers = compare(spec, model, tokenizer, rows, EventLog(run_dir.log))
    objection, fix = shortfall(spec, scores), "Train for longer or on more rows, or lower JOB_MIN_SCORE."
    return Judgement(objection=objection, fix=fix if objection else "", gate=figures, scores=scores, answers=answers)
