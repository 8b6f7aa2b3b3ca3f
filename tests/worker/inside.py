"""``python -m tests.worker.inside RUN_DIR``: the worker's trainer, asked from within after one step.

It stands in for ``job.train`` where a test wants to know what no file of a run says.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from job.records import Plan, TrainTask
from job.records.base import Record
from job.rundir import RunDir, read_record, write_json
from job.spec import JobSpec
from job.train.methods import make_trainer


class Seen(Record):
    """What one rank saw after its first step."""

    log_probs_dtype: str
    log_probs_rounded: bool  # all of them could stand in bfloat16
    loaded_bytes: int  # of the base, before training
    held_bytes: int  # of the base, between steps


def main() -> None:
    run_dir = RunDir(Path(sys.argv[1]))
    records = (read_record(run_dir.spec, JobSpec), read_record(run_dir.plan, Plan))
    trainer, _ = make_trainer(*records, read_record(run_dir.train_task, TrainTask), run_dir, lambda: None)
    path = run_dir.root / f"inside{os.environ.get('RANK', '0')}.json"
    trainer.add_callback(Look(trainer, path, frozen_bytes(trainer.model)))
    trainer.train()
    trainer.accelerator.wait_for_everyone()
    sys.stdout.flush()
    os._exit(0)


class Look(TrainerCallback):
    """Writes what one rank sees after its first step."""

    def __init__(self, trainer: Any, path: Path, loaded_bytes: int) -> None:
        self._trainer, self._path, self._loaded_bytes = trainer, path, loaded_bytes

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = True
        ids = torch.arange(3, 60, device=args.device)[None]
        with torch.no_grad(), self._trainer.compute_loss_context_manager():
            outputs = self._trainer.model_wrapped(input_ids=ids, labels=ids, fused_lm_head=True)
        log_probs = outputs.log_probs
        seen = Seen(
            log_probs_dtype=str(log_probs.dtype),
            log_probs_rounded=bool((log_probs.bfloat16().to(log_probs.dtype) == log_probs).all()),
            loaded_bytes=self._loaded_bytes,
            held_bytes=frozen_bytes(self._trainer.model),
        )
        write_json(self._path, seen)


def frozen_bytes(model: nn.Module) -> int:
    """Bytes of the base that this rank holds."""
    frozen = [_local(parameter) for parameter in model.parameters() if not parameter.requires_grad]
    return sum(part.nbytes for part in frozen if part.device.type != "meta")


def _local(parameter: nn.Parameter) -> torch.Tensor:
    if hasattr(parameter, "ds_tensor"):
        return parameter.ds_tensor
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


if __name__ == "__main__":
    main()
