"""``python -m tests.worker.agreeing RUN_DIR``: the worker's trainer, and what each rank has heard of each step's loss.
Its clock runs fast, so that checkpoints by time come within a few steps.

It stands in for ``job.train``.
"""

import os
import sys
from pathlib import Path

from job.records import LogEntry, Plan, Record, TrainTask
from job.rundir import RunDir, read_record, write_json
from job.spec import JobSpec
from job.train.agreement import Agreement
from job.train.callbacks import Obey
from job.train.health import Health
from job.train.methods import make_trainer
from job.train.save_pace import SavePace


class Heard(Record):
    """By one rank: step by step what it has heard, and what the Trainer itself has logged."""

    heard: tuple[LogEntry, ...]
    logged: tuple[LogEntry, ...]


class Listening(Health):
    """Also remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[LogEntry] = []

    def loss(self, step: int, loss: float, learning_rate: float) -> None:
        self.heard.append(LogEntry(step=step, values={"loss": loss, "learning_rate": learning_rate}))
        super().loss(step, loss, learning_rate)


class FastClock:
    """Ten seconds pass from one look to the next; a step takes two looks."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        self._now += 10.0
        return self._now


def main() -> None:
    run_dir, rank = RunDir(Path(sys.argv[1])), os.environ.get("RANK", "0")
    records = (read_record(run_dir.spec, JobSpec), read_record(run_dir.plan, Plan))
    trainer, _ = make_trainer(*records, read_record(run_dir.train_task, TrainTask), run_dir, lambda: None)
    health = Listening()
    trainer.agreement = Agreement(trainer.args.device, trainer.args.world_size, health)
    trainer.pace = SavePace(FastClock(), heard_later=trainer.args.world_size > 1)
    trainer.add_callback(Obey(trainer, by_time=True))
    trainer.train()
    logged = tuple(
        LogEntry(step=entry["step"], values={name: entry[name] for name in ("loss", "learning_rate")})
        for entry in trainer.state.log_history
        if "loss" in entry
    )
    write_json(run_dir.root / f"heard{rank}.json", Heard(heard=tuple(health.heard), logged=logged))
    trainer.accelerator.wait_for_everyone()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
