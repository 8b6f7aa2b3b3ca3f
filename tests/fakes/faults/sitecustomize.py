"""Something goes wrong in a worker: FAKE_FAULT=KIND@STEP[@RANK], in the micro-batches from that step on.

RANK is a number (0 unless given) or ``all``. KIND is a signal that the rank sends itself (SEGV, ABRT, BUS, KILL, STOP),
``deaf`` (it never comes back), ``nan`` and ``spike`` (of the loss), ``frozen`` (no gradient), or ``full`` (the disk of
the file FAKE_FILL fills up). FAKE_STEP_S makes every micro-batch take that much longer. Python imports this on its own;
the trainer is changed once it has been imported, as the first process must stay light.
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


class _Then(Loader):
    """*loader*, and then the fault."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        self._loader.exec_module(module)
        _disturb(module.AdapterTrainer)


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
    training_step = trainer.training_step
    kind, step, rank = (os.environ.get("FAKE_FAULT", "none@0") + "@0").split("@")[:3]
    concerned = rank in ("all", os.environ.get("RANK", "0"))

    def disturbed(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        time.sleep(float(os.environ.get("FAKE_STEP_S", "0")))
        now = concerned and self.state.global_step + 1 >= int(step)
        if now and kind.isupper():
            os.kill(os.getpid(), signal.Signals[f"SIG{kind}"])
        if now and kind == "deaf":
            time.sleep(10**6)
        if now and kind == "full":
            _fill(Path(os.environ["FAKE_FILL"]))
        loss = training_step(self, model, *args, **kwargs)
        if now and kind == "frozen":
            model.zero_grad()
        return loss * {"nan": float("nan"), "spike": 100.0}.get(kind, 1.0) if now else loss

    trainer.training_step = disturbed


def _fill(path: Path) -> None:
    with suppress(OSError), path.open("ab", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))


if "job.train" in sys.orig_argv:
    sys.meta_path.insert(0, _Finder())
