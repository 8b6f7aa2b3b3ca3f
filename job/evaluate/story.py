"""The story of a judgement: the adapter gate, and then what the adapter makes of rows that were held out."""

import transformers

from job.errors import AdapterRejected
from job.evaluate.gate import pass_gate
from job.records import EvaluateTask, Judgement
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
        _, figures = pass_gate(spec, task, run_dir.proof_logits)
    except AdapterRejected as objection:
        return Judgement(objection=objection.cause, fix=objection.fix)
    return Judgement(gate=figures)
