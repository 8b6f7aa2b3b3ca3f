"""A run to report on: Llama-3.1-8B on GSM8K with one H100, as it would have gone."""

import math
import random
from dataclasses import replace
from typing import Any

from job.plan import make_plan
from job.records import (
    AdapterProof,
    Answer,
    CurveFinding,
    Findings,
    LogEntry,
    Prepared,
    PreviewPiece,
    PreviewRow,
    SampleAnswer,
    Score,
    SplitStats,
    TrainResult,
)
from job.report.made import AllAttempts, Made
from job.report.metrics import make_metrics
from job.report.page import page
from job.spec import JobSpec
from tests.plans import ROWS, facts_for

STEPS, EVERY = 3000, 10
SETTINGS: dict[str, Any] = {
    "columns": {"prompt": "question", "completion": "answer"}, "eval_fraction": 0.05, "gpu_hour_price": 2.5,
    "max_steps": STEPS, "global_batch_size": 8, "lora_r": 32, "lora_alpha": 64,
}  # fmt: skip
# Tokens of GSM8K's rows: few below 90, half below 200.
LENGTHS = (
    47, 92, 107, 118, 128, 138, 147, 156, 166, 176, 187, 198, 210, 224, 239, 256, 277, 303, 338, 396, 1187,
)  # fmt: skip
QUESTION = "Natalia sold clips to 48 of her friends in April, and then half as many in May. How many in both months?"
REFERENCE = "In May she sold 48/2 = <<48/2=24>>24 clips.\nTogether that is 48+24 = <<48+24=72>>72.\n#### 72"
PROMPT = f"<|start_header_id|>user<|end_header_id|>\n\n{QUESTION}<|eot_id|>"


def history() -> tuple[LogEntry, ...]:
    chance, entries = random.Random(7), []
    for step in range(EVERY, STEPS + 1, EVERY):
        warm = min(1.0, step / 90)
        rate = 2e-4 * (warm if warm < 1 else (1 + math.cos(math.pi * (step - 90) / (STEPS - 90))) / 2)
        loss = 0.44 + 0.85 * math.exp(-step / 260) - 0.05 * step / STEPS + chance.gauss(0, 0.03)
        norm = 0.35 + 1.6 * math.exp(-step / 120) + abs(chance.gauss(0, 0.08)) + (2.1 if step == 1730 else 0)
        values = {"loss": loss, "learning_rate": rate, "grad_norm": norm, "mean_token_accuracy": 0.93 - loss * 0.14}
        entries.append(LogEntry(step=step, values=values))
    return tuple(entries)


def evaluations() -> tuple[LogEntry, ...]:
    losses = {0: 1.214, 500: 0.561, 1000: 0.507, 1500: 0.489, 2000: 0.481, 2500: 0.4785, 3000: 0.4779}
    return tuple(LogEntry(step=step, values={"eval_loss": loss}) for step, loss in losses.items())


def result(**changes: Any) -> TrainResult:
    fields: dict[str, Any] = {
        "status": "finished", "steps": STEPS, "total_steps": STEPS, "resumed_at_step": 1400, "epoch": 3.38,
        "train_runtime_s": 512.0, "timed_steps": STEPS - 1, "after_first_step_s": 455.0, "tokens": 5_160_000,
        "train_loss": 0.4871, "history": history(), "eval_history": evaluations(), "peak_gpu_memory_gib": 29.214,
        "adapter": AdapterProof(trainable_parameters=83_886_080, tensors=448, changed_tensors=448),
        "versions": {"torch": "2.13.0", "transformers": "5.23.0", "trl": "1.16.0", "peft": "0.21.2"},
    }  # fmt: skip
    return TrainResult(**fields | changes)


def prepared(**changes: Any) -> Prepared:
    """*changes* replace figures of the training rows."""
    stats = {
        "rows": 7099, "sequences": 745, "tokens": 1_526_285, "trained_tokens": 894_474, "max_tokens": 1187,
        "lengths": LENGTHS, "truncated_rows": 0, "truncated_tokens": 0, "dropped_rows": 0, "dropped_tokens": 0,
    }  # fmt: skip
    train = SplitStats(**stats | changes)
    return Prepared(
        format="prompt-completion", format_reason="columns question and answer, by JOB_COLUMNS", read_share=1.0,
        train=train, eval=train.model_copy(update={"rows": 374, "tokens": 80_410}),
        findings=Findings(
            bad_rows=0, first_bad_rows=(), duplicate_rows=3, rows_in_train_and_eval=0, oddities={},
        ),
    )  # fmt: skip


def row(text: str = REFERENCE, where: str = "gsm8k/main/train-00000-of-00001.parquet:1") -> PreviewRow:
    pieces = (PreviewPiece(text=f"{PROMPT}\n", trained=False), PreviewPiece(text=f"{text}<|eot_id|>", trained=True))
    return PreviewRow(where=where, tokens=104, trained_tokens=61, pieces=pieces)


def answers() -> tuple[Answer, ...]:
    vague = "Let's think step by step. Natalia sold 48 clips in April. In May she sold half as many.\n\nSo, 48 + 48 / 2"
    scores = {"numeric_answer": (0.0, 1.0)}
    vague += " = 72 clips? " * 20
    right = Answer(prompt=PROMPT, reference=REFERENCE, base=vague, tuned=REFERENCE, scores=scores)
    question = "<|start_header_id|>user<|end_header_id|>\n\nWeng earns $12 an hour. She babysat 50 minutes. Her pay?"
    wrong = Answer(
        prompt=question, reference="She earns 12/60 = $<<12/60=0.2>>0.2 a minute.\nFor 50 minutes: $10.\n#### 10",
        base="Weng earned $12.", tuned="50 minutes are 50/60 of an hour.\nShe earned 12 x 5 = $60.\n#### 60",
        scores={"numeric_answer": (0.0, 0.0)},
    )  # fmt: skip
    return (right, wrong) * 50


def example(**changes: Any) -> Made:
    """The run; *changes* replace fields of `Made`."""
    spec = JobSpec(
        model="hf://meta-llama/Llama-3.1-8B@main", dataset_uri=("openai/gsm8k",), output_uri=("s3://models/gsm8k",),
        **SETTINGS,
    )  # fmt: skip
    rows = ROWS.model_copy(update={"rows": 7099, "epoch_rows": 7099, "mean_tokens": 215.0, "lengths": LENGTHS})
    facts = facts_for("Llama-3.1-8B", "H100").model_copy(update={"dataset": rows})
    made = Made(
        spec=spec, dataset_revisions=("e53f048856ff4f594e959d75785d2c2d37b678ee",), facts=facts,
        plan=make_plan(spec, facts), prepared=prepared(), result=result(),
        phases_s={"inspect": 3.1, "plan": 21.4, "prepare": 64.2, "train": 271.0}, attempts=AllAttempts(2, 694.0, 694.0),
        rows=(row(), row("He wrote 3*2 = <<3*2=6>>6 pages a week.\n#### 624", where="gsm8k/main/train.parquet:2")),
        scores=(Score(scorer="numeric_answer", base=0.21, tuned=0.58), Score(scorer="contains", base=0.34, tuned=0.61)),
        answers=answers(),
        samples=tuple(SampleAnswer(step=step, prompt=PROMPT, answer=REFERENCE) for step in (1000, 2000, 3000)),
    )  # fmt: skip
    return replace(made, **changes)


def page_of(curve: tuple[CurveFinding, ...] | None = None, **changes: Any) -> str:
    """The page of `example`, with *curve* for what its curves show."""
    made = example(**changes)
    metrics = make_metrics(made)
    return page(made, metrics if curve is None else metrics.model_copy(update={"curve": curve}))


def page_with(text: str) -> str:
    """A page that shows *text* wherever something from outside is shown."""
    made = example()
    findings = made.prepared.findings.model_copy(update={"first_bad_rows": (text,), "oddities": {text: 3}})
    return page_of(
        spec=made.spec.model_copy(
            update={"model": f"./{text}", "dataset_uri": (f"./{text}",), "response_template": text}
        ),
        dataset_revisions=(text,),
        prepared=made.prepared.model_copy(update={"findings": findings, "format_reason": text}),
        plan=made.plan.model_copy(update={"reasons": {text: text}, "fallbacks": (text,)}),
        rows=(PreviewRow(where=text, tokens=1, trained_tokens=1, pieces=(PreviewPiece(text=text, trained=True),)),),
        scores=(Score(scorer=text, base=0, tuned=1, f1={text: 0.5}),),
        answers=(Answer(prompt=text, reference=text, base=text, tuned=text, scores={text: (0, 1)}),),
        samples=(SampleAnswer(step=1, prompt=text, answer=text),),
        curve=(CurveFinding(pattern="spike", evidence=text, advice=text),),
    )
