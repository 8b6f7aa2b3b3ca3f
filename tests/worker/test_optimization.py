"""Every optimizer and schedule that can be asked for is made by the Trainer, steps, and goes on from its state."""

import inspect
from pathlib import Path

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import Trainer, TrainingArguments
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, get_scheduler

from job.optimizers import OPTIMIZERS
from job.schedules import SCHEDULE_ARGUMENTS

SIZE = 128  # elements of a tensor from 4096 on are kept in 8 bits (bitsandbytes, min_8bit_size)


def stepped(optim: str, folder: Path) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Linear(SIZE, SIZE, bias=False)
    args = TrainingArguments(output_dir=str(folder), optim=optim, use_cpu=True, report_to="none", learning_rate=1e-3)
    optimizer = Trainer(model=model, args=args).create_optimizer()
    step(model, optimizer)
    return model, optimizer


def step(model, optimizer):
    rows = torch.ones(1, SIZE)
    (model(rows) - rows).pow(2).mean().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("optim", sorted(OPTIMIZERS))
def test_an_optimizer_changes_what_it_is_given_and_goes_on_from_its_state(optim, tmp_path):
    model, optimizer = stepped(optim, tmp_path)
    before = model.weight.detach().clone()
    step(model, optimizer)
    assert not torch.equal(model.weight, before)

    fresh, resumed = stepped(optim, tmp_path)
    fresh.load_state_dict({"weight": before})
    resumed.load_state_dict(stepped(optim, tmp_path)[1].state_dict())
    step(fresh, resumed)
    assert torch.equal(fresh.weight, model.weight)


@pytest.mark.parametrize("optim", sorted(set(OPTIMIZERS) - {"adafactor"}))
def test_an_optimizer_keeps_as_many_bytes_as_the_memory_model_counts(optim, tmp_path):
    _, optimizer = stepped(optim, tmp_path)
    states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    held = sum(value.numel() * value.element_size() for value in states if value.numel() > 1) / SIZE**2

    known = OPTIMIZERS[optim]
    # Beside the states themselves bitsandbytes holds a table of 256 numbers for 8-bit ones.
    assert known.states * (known.state_bytes or 4) == pytest.approx(held, abs=0.2)


@pytest.mark.parametrize("schedule", sorted(SCHEDULE_ARGUMENTS))
def test_a_schedule_takes_the_arguments_that_are_listed(schedule):
    made = ReduceLROnPlateau if schedule == "reduce_lr_on_plateau" else TYPE_TO_SCHEDULER_FUNCTION[schedule]
    taken = set(inspect.signature(made).parameters)

    assert set(SCHEDULE_ARGUMENTS[schedule]) <= taken
    given = {"num_warmup_steps", "num_training_steps", "last_epoch", "optimizer", "mode", "verbose"}
    assert taken - given - {"kwargs"} <= set(SCHEDULE_ARGUMENTS[schedule]) | {"lr_init"}


@pytest.mark.parametrize(
    ("schedule", "arguments"),
    [("cosine_with_min_lr", {"min_lr_rate": 0.1}), ("warmup_stable_decay", {"num_decay_steps": 4}), ("linear", {})],
)
def test_a_schedule_is_made_with_what_is_needed(schedule, arguments):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)

    scheduler = get_scheduler(schedule, optimizer, 2, 10, arguments)
    rates = []
    for _ in range(10):
        optimizer.step()
        rates.append(scheduler.get_last_lr()[0])
        scheduler.step()
    assert rates[0] == 0
    assert max(rates) == 1
    assert rates[-1] < 0.3
