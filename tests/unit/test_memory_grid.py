"""The grid of settings that a GPU is measured with: it fits, it is what it says, and it foresees what plans foresee."""

from itertools import groupby

import pyarrow as pa
import pytest

from bench.memory_grid import NOT_ALLOCATED, Measured, compared, foreseen, is_off, predicted
from bench.memory_settings import ACCUMULATION, SETTINGS, STEPS, write_rows
from job.facts.gpus import parse_gpus
from job.memory import CONTEXT_GIB, SLACK
from job.records import HardwareFacts

H100 = HardwareFacts(gpus=parse_gpus("H100"))
EACH = pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: " ".join(setting.cells))


@EACH
def test_every_setting_fits_an_h100_and_is_planned_as_it_says(setting):
    plan = setting.plan(H100)

    assert plan.memory.fits
    assert (plan.strategy, plan.num_processes, plan.use_gpu) == ("single", 1, True)
    assert (plan.quantization, plan.packing) == (setting.quantization, setting.packing)
    assert plan.gradient_checkpointing == setting.gradient_checkpointing
    assert (plan.per_device_train_batch_size, plan.max_length) == (setting.per_device, setting.length)
    assert plan.gradient_accumulation_steps == ACCUMULATION


@EACH
def test_what_is_allocated_is_all_but_context_and_slack(setting):
    memory = setting.plan(H100).memory
    gib = {item.name: item.gib for item in memory.items}
    passing = ("activations", "inputs of int8 layers", "loss head", "backward pass")

    allocated, whole, _ = foreseen(setting.plan(H100))

    assert set(NOT_ALLOCATED) <= set(gib)
    assert whole == memory.total_gib
    assert whole - allocated == pytest.approx(CONTEXT_GIB + SLACK * sum(gib.get(name, 0) for name in passing))


@EACH
def test_the_longest_micro_batch_is_as_long_as_was_planned(setting, tmp_path):
    write_rows(setting, tmp_path / "train.arrow")
    with pa.ipc.open_stream(tmp_path / "train.arrow") as stream:
        rows = stream.read_all()
    lengths = [len(row) for row in rows.column("input_ids")]

    assert len(lengths) == STEPS * ACCUMULATION * setting.per_device
    assert max(lengths) == setting.length
    assert min(lengths) > setting.length - 8
    # Equal rows in a micro-batch would have no attention mask, of which the plan takes account.
    assert (len(set(lengths)) > 1) == (setting.per_device > 1)
    assert ("seq_lengths" in rows.column_names) == setting.packing


@pytest.mark.parametrize(("share", "off"), [(0.89, True), (0.91, False), (1.0, False), (1.09, False), (1.11, True)])
def test_a_peak_further_than_a_tenth_from_what_was_foreseen_is_wrong(share, off):
    plan = SETTINGS[0].plan(H100)
    allocated, whole, _ = foreseen(plan)
    found = Measured(allocated_gib=share * allocated, held_gib=whole, tokens_per_s=1.0)

    assert is_off(plan, found) is off
    assert f"{share - 1:+.1%}" in compared(plan, found)


def test_the_grid_varies_what_memory_depends_on():
    assert len(SETTINGS) >= 12
    assert {(s.quantization, s.gradient_checkpointing) for s in SETTINGS} == {
        (quantization, checkpointing) for quantization in ("none", "nf4", "int8") for checkpointing in (False, True)
    }
    for quantization in ("none", "nf4"):
        assert {s.dropout > 0 for s in SETTINGS if s.quantization == quantization} == {False, True}
    assert {setting.packing for setting in SETTINGS} == {False, True}


def test_settings_of_a_model_stand_together_so_that_it_is_made_once():
    models = [model for model, _ in groupby(setting.model for setting in SETTINGS)]

    assert len(models) == len(set(models)) >= 4


def test_a_setting_that_does_not_fit_is_told_in_its_row_and_the_others_go_on():
    rows = list(predicted(list(enumerate(SETTINGS, 1)), HardwareFacts(gpus=parse_gpus("L4"))))

    assert len(rows) == len(SETTINGS)
    assert "does not fit on 1 × NVIDIA L4" in rows[6][-1]  # the 8B with all activations of 4,096 tokens
