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
from job.rundir import RunDir, read_record, write_json
from job.spec import JobSpec
from job.train.sft import make_trainer


def main() -> None:
    run_dir = RunDir(Path(sys.argv[1]))
    records = (read_record(run_dir.spec, JobSpec), read_record(run_dir.plan, Plan))
    trainer, _ = make_trainer(*records, read_record(run_dir.train_task, TrainTask), run_dir)
    trainer.add_callback(Look(trainer, run_dir.root / f"inside{os.environ.get('RANK', '0')}.json"))
    trainer.train()
    trainer.accelerator.wait_for_everyone()
    sys.stdout.flush()
    os._exit(0)


class Look(TrainerCallback):
    """Writes what one rank sees after its first step."""

    def __init__(self, trainer: Any, path: Path) -> None:
        self._trainer, self._path = trainer, path

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = True
        ids = torch.arange(3, 60, device=args.device)[None]
        with torch.no_grad(), self._trainer.compute_loss_context_manager():
            outputs = self._trainer.model_wrapped(input_ids=ids, labels=ids, fused_lm_head=True)
        frozen = [parameter for parameter in self._trainer.model.parameters() if not parameter.requires_grad]
        log_probs = outputs.log_probs
        seen = {
            "log_probs_rounded": bool((log_probs.bfloat16().to(log_probs.dtype) == log_probs).all()),
            "log_probs_dtype": str(log_probs.dtype),
            "frozen_bytes_here": sum(_local(parameter).nbytes for parameter in frozen),
            "adapter_dtypes": sorted({str(p.dtype) for p in self._trainer.model.parameters() if p.requires_grad}),
            "optimizer_dtypes": _state_dtypes(self._trainer.optimizer),
        }
        write_json(self._path, seen)


def _local(parameter: nn.Parameter) -> torch.Tensor:
    """The part of *parameter* that this rank holds."""
    if hasattr(parameter, "ds_tensor"):
        return parameter.ds_tensor
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def _state_dtypes(optimizer: Any) -> list[str]:
    state = getattr(optimizer, "optimizer", optimizer).state
    return sorted({str(value.dtype) for values in state.values() for value in values.values() if torch.is_tensor(value)})


if __name__ == "__main__":
    main()
