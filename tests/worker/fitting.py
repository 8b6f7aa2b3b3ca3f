"""``python -m tests.worker.fitting RUN_DIR``: the worker's trainer with the trial of the longest batch, as on a GPU.

It stands in for ``job.train``. FAKE_TOKENS is what fits, FAKE_RANK the rank that has no more memory than that.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from job.events import EventLog
from job.records import Plan, Record, TrainTask
from job.rundir import RunDir, read_record, write_json
from job.spec import JobSpec
from job.train.fit import FitsMemory, longest_batch
from job.train.methods import make_trainer


class Fitting(Record):
    """How one rank fared."""

    error: str | None
    steps: int
    losses: tuple[float, ...]
    tried_tokens: int  # of the longest batch, padding included
    masked: bool  # there is some
    held_gradients: int  # after the trial


def main() -> None:
    run_dir, rank = RunDir(Path(sys.argv[1])), os.environ.get("RANK", "0")
    limit = int(os.environ.get("FAKE_TOKENS", "0"))
    if limit and rank == os.environ["FAKE_RANK"]:
        hold_no_more_than(limit)
    records = (read_record(run_dir.spec, JobSpec), read_record(run_dir.plan, Plan))
    trainer, _ = make_trainer(*records, read_record(run_dir.train_task, TrainTask), run_dir, lambda: None)
    fits, error = FitsMemory(trainer, EventLog(run_dir.log)), None
    if "FAKE_TOKENS" in os.environ:
        trainer.add_callback(fits)
    try:
        trainer.train()
    except torch.OutOfMemoryError as caught:
        error = str(caught)
    write_json(run_dir.root / f"fitting{rank}.json", _fitting(trainer, error))
    sys.stdout.flush()
    os._exit(1 if error else 0)


def _fitting(trainer: Any, error: str | None) -> Fitting:
    return Fitting(
        error=error,
        steps=trainer.state.global_step,
        losses=tuple(entry["loss"] for entry in trainer.state.log_history if "loss" in entry),
        tried_tokens=longest_batch(trainer)["input_ids"].numel(),
        masked=not longest_batch(trainer)["attention_mask"].all(),
        held_gradients=sum(parameter.grad is not None for parameter in trainer.model.parameters()),
    )


def hold_no_more_than(tokens: int) -> None:
    embedding = functional.embedding

    def within_memory(input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if input_ids.numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return embedding(input_ids, *args, **kwargs)

    functional.embedding = within_memory


if __name__ == "__main__":
    main()
