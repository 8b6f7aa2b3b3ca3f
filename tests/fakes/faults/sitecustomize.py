"""Something goes wrong in a worker: FAKE_FAULT=KIND@STEP[@RANK], in the micro-batches from that step on.

RANK is a number (0 unless given) or ``all``. KIND is a signal that the rank sends itself (SEGV, ABRT, BUS, KILL, STOP),
``deaf`` (it never comes back), ``bug`` (an exception), ``nan`` and ``spike`` (of the loss), ``frozen`` (no gradient),
``full`` (the disk of the file FAKE_FILL fills up), or ``lost`` (one layer of the adapter, on its way to its file).

FAKE_STEP_S, FAKE_EVAL_S and FAKE_SAVE_S are SECONDS[@STEP]: from that step on, each step of the optimizer, each batch
of an evaluation, or each checkpoint, between upstream's files and the seal, takes that much longer. FAKE_JUDGE_S are
the seconds before the adapter is judged. Python imports this on its own; the trainer is changed once it has been
imported, as the first process must stay light.
"""

import os
import signal
import sys
import time
from contextlib import suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TRAINER = "job.train.trainer"
LOSSES = {"nan": float("nan"), "spike": 100.0}


class _Then(Loader):
    """*loader*, and then the fault."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        self._loader.exec_module(module)
        _disturb(module.AdapterTrainer)
        _lose_a_layer(module.AdapterTrainer)
        _delay(module.AdapterTrainer)


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != TRAINER:
            return None
        sys.meta_path.remove(self)
        found = find_spec(name)
        assert found is not None
        found.loader = _Then(found.loader)
        return found


def _disturb(trainer: Any) -> None:
    training_step, compute_loss = trainer.training_step, trainer.compute_loss
    kind, step, rank = (os.environ.get("FAKE_FAULT", "none@0") + "@0").split("@")[:3]
    concerned = rank in ("all", os.environ.get("RANK", "0"))

    def is_time(self: Any) -> bool:
        return concerned and self.state.global_step + 1 >= int(step)

    def disturbed_step(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        if is_time(self):
            _misbehave(kind)
        loss = training_step(self, model, *args, **kwargs)
        if is_time(self) and kind == "frozen":
            model.zero_grad()
        return loss

    def disturbed_loss(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        loss = compute_loss(self, model, *args, **kwargs)
        return loss * LOSSES[kind] if model.training and is_time(self) and kind in LOSSES else loss

    trainer.training_step, trainer.compute_loss = disturbed_step, disturbed_loss


def _lose_a_layer(trainer: Any) -> None:
    save_result = trainer.save_result

    def save_the_rest(self: Any, *args: Any) -> None:
        from safetensors.torch import load_file, save_file

        save_result(self, *args)
        path = self.run_dir.adapter / "adapter_model.safetensors"
        save_file({name: tensor for name, tensor in load_file(path).items() if ".layers.1." not in name}, path)

    if os.environ.get("FAKE_FAULT", "").startswith("lost"):
        trainer.save_result = save_the_rest


def _delay(trainer: Any) -> None:
    upstream = trainer.__bases__[0]  # whose checkpoint is not sealed yet
    training_step, prediction_step = trainer.training_step, trainer.prediction_step
    save_checkpoint = upstream._save_checkpoint

    def slow_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        time.sleep(_longer("FAKE_STEP_S", self.state.global_step + 1) / self.current_gradient_accumulation_steps)
        return training_step(self, *args, **kwargs)

    def slow_prediction(self: Any, *args: Any, **kwargs: Any) -> Any:
        time.sleep(_longer("FAKE_EVAL_S", self.state.global_step))
        return prediction_step(self, *args, **kwargs)

    def slow_save(self: Any, *args: Any, **kwargs: Any) -> None:
        save_checkpoint(self, *args, **kwargs)
        time.sleep(_longer("FAKE_SAVE_S", self.state.global_step))

    trainer.training_step, trainer.prediction_step = slow_step, slow_prediction
    upstream._save_checkpoint = slow_save


def _longer(setting: str, step: int) -> float:
    """The seconds that *setting* adds at *step*."""
    seconds, since = (os.environ.get(setting, "0") + "@0").split("@")[:2]
    return float(seconds) if step >= int(since) else 0.0


def _misbehave(kind: str) -> None:
    if kind.isupper():
        os.kill(os.getpid(), signal.Signals[f"SIG{kind}"])
    if kind == "deaf":
        time.sleep(10**6)
    if kind == "bug":
        raise RuntimeError("nobody has thought of this")
    if kind == "full":
        _fill(Path(os.environ["FAKE_FILL"]))


def _fill(path: Path) -> None:
    with suppress(OSError), path.open("ab", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))


if "job.evaluate" in sys.orig_argv:
    time.sleep(float(os.environ.get("FAKE_JUDGE_S", "0")))
if "job.train" in sys.orig_argv:
    sys.meta_path.insert(0, _Finder())
