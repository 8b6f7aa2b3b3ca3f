"""At the end of an epoch every process has as many batches, and no row is trained twice for it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from torch.nn.functional import cross_entropy
from torch.utils.data import BatchSampler, SequentialSampler
from transformers import AutoModelForCausalLM

from job.train.whole_rounds import WholeRounds
from tests.thorough import some
from tests.worker.strategies import make_inputs, make_run

ROWS = 91  # in batches of 8, the twelfth step of an epoch has three rows
STEPS = 14


@pytest.mark.parametrize("processes", [2, 3, 4])
@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("rows", [1, 4, 7, 30])
def test_each_row_is_in_one_batch_of_one_process(rows, size, processes):
    inner = BatchSampler(SequentialSampler(range(rows)), size, drop_last=False)
    whole = WholeRounds(inner, processes, filler=rows)

    shards = [list(BatchSamplerShard(whole, processes, rank)) for rank in range(processes)]

    assert len({len(batches) for batches in shards}) == 1
    assert all(len(batch) == size for batches in shards for batch in batches)
    drawn = [row for batches in shards for batch in batches for row in batch if row != rows]
    assert sorted(drawn) == list(range(rows))
    assert len(whole) == sum(map(len, shards))


def test_batches_that_suffice_are_left_as_they_are():
    inner = BatchSampler(SequentialSampler(range(8)), 2, drop_last=False)

    assert list(WholeRounds(inner, 2, filler=8)) == list(inner)


@pytest.mark.slow
@pytest.mark.parametrize("packing", some((False, True), always=(False,)), ids=["rows", "packs"])
def test_the_number_of_processes_changes_no_step_at_an_epochs_end(tmp_path: Path, packing: bool):
    (tmp_path / "inputs").mkdir()
    inputs = make_inputs(tmp_path / "inputs", rows=ROWS, packing=packing)
    sequences = len(Dataset.from_file(str(inputs.data / "train.arrow")))
    assert sequences % 2 == 1, "two processes could share them"
    assert sequences // 8 < STEPS, "there is no epoch's end"

    losses = []
    for strategy, processes in (("single", 1), ("ddp", 2)):
        packed = {"packing": True, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8 // processes}
        run = make_run(inputs, tmp_path / strategy, strategy, **(packed if packing else {}))
        losses.append(replace(run, settings=run.settings | {"max_steps": STEPS}).execute().losses)

    assert len(losses[0]) == STEPS
    assert losses[1] == pytest.approx(losses[0], abs=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("packing", some((False, True), always=(False,)), ids=["rows", "packs"])
def test_an_evaluation_weighs_each_token_once_on_any_number_of_processes(tmp_path: Path, packing: bool):
    (tmp_path / "inputs").mkdir()
    inputs = make_inputs(tmp_path / "inputs", rows=60 if packing else 14, packing=packing, eval_fraction=0.5)
    rows = Dataset.from_file(str(inputs.data / "eval.arrow"))
    assert len(rows) % (2 if packing else 4), "two processes could share them"

    for strategy, processes in (("single", 1), ("ddp", 2)):
        packed = {"packing": True, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8 // processes}
        run = make_run(inputs, tmp_path / strategy, strategy, **(packed if packing else {}))
        run = replace(run, settings=run.settings | {"max_steps": 1, "eval_fraction": 0.5}).execute()
        before = run.result.eval_history[0]
        assert (before.step, before.values["eval_loss"]) == (0, pytest.approx(nll(inputs.model, rows), abs=1e-5))


@torch.no_grad()
def nll(folder: Path, rows: Dataset) -> float:
    """The mean over all trained tokens, one sequence after the other through the model of *folder*."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    losses = []
    for row in rows:
        begin = 0
        for length in row.get("seq_lengths") or [len(row["input_ids"])]:
            ids, labels = (torch.tensor(row[name][begin : begin + length]) for name in ("input_ids", "labels"))
            predicted = model(input_ids=ids[None]).logits[0, :-1]
            losses.append(cross_entropy(predicted, labels[1:], reduction="none")[labels[1:] != -100])
            begin += length
    return float(torch.cat(losses).mean())
