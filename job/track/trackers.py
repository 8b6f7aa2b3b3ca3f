"""Each tracker by its own library. These read credentials and addresses from their own variables."""

from typing import Any, Protocol

from job.rundir import RunDir
from job.spec import JobSpec


class Tracker(Protocol):
    """Where the figures of a run go."""

    def log(self, step: int, figures: dict[str, float]) -> None: ...
    def finish(self) -> None: ...


def open_tracker(name: str, spec: JobSpec, run_dir: RunDir) -> Tracker:
    """The tracker called *name*, ready for the first figures; it knows the settings of the run."""
    match name:
        case "wandb":
            return WandbTracker(spec, run_dir)
        case "tensorboard":
            return TensorBoardTracker(spec, run_dir)
        case _:
            return MlflowTracker(spec)


class WandbTracker:
    """All attempts at a run are one run there, known by its fingerprint and output."""

    def __init__(self, spec: JobSpec, run_dir: RunDir) -> None:
        import wandb

        self._run = wandb.init(
            id=spec.tracking_id,
            name=spec.tracking_name,
            config=settings_of(spec),
            dir=str(run_dir.root),
            resume="allow",
        )

    def log(self, step: int, figures: dict[str, float]) -> None:
        self._run.log(figures, step=step)

    def finish(self) -> None:
        self._run.finish()


class TensorBoardTracker:
    """Writes event files, which are published with the attempt."""

    def __init__(self, spec: JobSpec, run_dir: RunDir) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run_dir.tensorboard))
        self._writer.add_text(
            "settings", "\n".join(f"    {name}: {value}" for name, value in settings_of(spec).items())
        )

    def log(self, step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self) -> None:
        self._writer.close()


class MlflowTracker:
    """Each attempt is a run of its own there: MLflow gives runs their ids itself."""

    def __init__(self, spec: JobSpec) -> None:
        import mlflow

        self._mlflow = mlflow
        mlflow.start_run(run_name=spec.tracking_name, tags={"graft.run": spec.tracking_id})
        mlflow.log_params({name: str(value)[:_PARAM] for name, value in settings_of(spec).items()})

    def log(self, step: int, figures: dict[str, float]) -> None:
        self._mlflow.log_metrics(figures, step=step)

    def finish(self) -> None:
        self._mlflow.end_run()


_PARAM = 500  # characters that MLflow stores of a parameter on every kind of server


def settings_of(spec: JobSpec) -> dict[str, Any]:
    """The settings that change the result; they hold no secret."""
    return spec.decisive
