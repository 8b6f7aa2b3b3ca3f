"""Answers during training: given at every evaluation, kept, and nothing that training notices."""

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from job.records import HELD_OUT, HeldOut, HeldOutRow
from job.rundir import write_json
from tests.worker.strategies import Run, make_inputs, make_run

pytestmark = pytest.mark.slow

# Dropout draws random numbers in every step.
SETTINGS = {
    "eval_fraction": 0.5, "eval_steps": 2, "max_steps": 4, "save_steps": 2, "lora_dropout": 0.1,
    "eval_max_new_tokens": 6,
}  # fmt: skip
TEXTS = ("How many?", "How many clips did she sell?")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two processes, with samples and without."""
    inputs = make_inputs(tmp_path_factory.mktemp("inputs"), eval_fraction=0.5, rows=16)
    tokenizer = AutoTokenizer.from_pretrained(inputs.model)
    rows = [HeldOutRow(prompt=text, input_ids=tuple(tokenizer(text).input_ids), reference=None) for text in TEXTS]
    write_json(inputs.data / HELD_OUT, HeldOut(rows=(*rows, rows[0])))
    made = [make_run(inputs, tmp_path_factory.mktemp("run"), "ddp") for _ in range(2)]
    asked = ({"eval_samples": 2}, {})
    return [
        replace(run, settings=run.settings | SETTINGS | more).execute() for run, more in zip(made, asked, strict=True)
    ]


def test_training_does_not_notice(runs):
    watched, left_alone = (run.result for run in runs)

    assert [entry.values["loss"] for entry in watched.history] == [entry.values["loss"] for entry in left_alone.history]
    losses = [[entry.values["eval_loss"] for entry in one.eval_history] for one in (watched, left_alone)]
    assert losses[0] == losses[1]


def test_every_evaluation_is_answered_and_logged(runs):
    samples = runs[0].result.samples

    assert [(one.step, one.prompt) for one in samples] == [(step, text) for step in (0, 2, 4) for text in TEXTS]
    assert samples[0].answer != samples[4].answer, "six tokens did not change in four steps"
    assert runs[0].files.log.read_text().count('"event": "sample"') == 6
    assert runs[1].result.samples == ()


def test_a_run_that_goes_on_elsewhere_has_the_answers_from_before(runs, tmp_path: Path):
    again = replace(runs[0], root=tmp_path, resume_from=runs[0].files.checkpoints / "checkpoint-2").execute()

    assert again.result.samples == runs[0].result.samples
