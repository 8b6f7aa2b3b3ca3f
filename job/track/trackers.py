"""Each tracker by its own library. These read credentials and addresses from their own variables."""

import json
from typing import Protocol

from job.rundir import RunDir
from job.spec import JobSpec

_PARAM = 500  # characters that MLflow stores of a parameter on every kind of server


class Tracker(Protocol):
    """Where the figures of a run go."""

    def log(self, step: int, figures: dict[str, float]) -> None: ...
    def finish(self) -> None: ...


def open_tracker(name: str, spec: JobSpec, run_dir: RunDir) -> Tracker:
    """The tracker called *name*, ready for the first figures; it knows the settings that change the result."""
    match name:
        case "wandb":
            return WandbTracker(spec, run_dir)
        case "tensorboard":
            return TensorBoardTracker(spec, run_dir)
        case _:
            return MlflowTracker(spec)


class WandbTracker:
    """All attempts at a run are one run there."""

    def __init__(self, spec: JobSpec, run_dir: RunDir) -> None:
        import wandb

        names = {"id": spec.tracking_id, "name": spec.tracking_name}
        self._run = wandb.init(**names, config=spec.decisive, dir=str(run_dir.root), resume="allow")

    def log(self, step: int, figures: dict[str, float]) -> None:
        self._run.log(figures, step=step)

    def finish(self) -> None:
        self._run.finish()


class TensorBoardTracker:
    """Writes event files, which are left with the attempt."""

    def __init__(self, spec: JobSpec, run_dir: RunDir) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run_dir.tensorboard))
        self._writer.add_text("settings", f"```\n{json.dumps(spec.decisive, indent=1)}\n```")

    def log(self, step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self) -> None:
        self._writer.close()


class MlflowTracker:
    """Each attempt is a run of its own there, as MLflow gives runs their ids itself."""

    def __init__(self, spec: JobSpec) -> None:
        import mlflow

        self._mlflow = mlflow
        mlflow.start_run(run_name=spec.tracking_name, tags={"graft.run": spec.tracking_id})
        mlflow.log_params({name: str(value)[:_PARAM] for name, value in spec.decisive.items()})

    def log(self, step: int, figures: dict[str, float]) -> None:
        self._mlflow.log_metrics(figures, step=step)

    def finish(self) -> None:
        self._mlflow.end_run()
