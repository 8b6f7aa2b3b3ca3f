"""What all ranks know of a step, one step later, so that none waits for the others."""

from typing import NamedTuple

import torch
import torch.distributed as dist

from job.train.health import Health


class Agreed(NamedTuple):
    """What rank 0 asked for, as every rank has heard it."""

    stop: int = 0  # job.train.save_pace's STOP or STOP_AND_SAVE; 0: go on
    save: bool = False


class Agreement:
    """Sums a few numbers of each step over all ranks: what rank 0 asks for, and the loss.

    Each step starts a sum and reads the one that the step before started. So every rank decides on the same numbers at
    the same step, and the device always has work to do while the host decides.
    """

    def __init__(self, device: torch.device, world_size: int, health: Health) -> None:
        self._device, self._world_size, self._health = device, world_size, health
        self._pending: _Sum | None = None
        self._about = (0, 0.0)
        self._agreed = Agreed()

    def exchange(self, step: int, asked: Agreed, loss: torch.Tensor, learning_rate: float) -> Agreed:
        """Start the sum of *step*, and return what holds now: what the sum before says, or *asked* at once where there
        is nobody else to ask. *asked* counts on rank 0 alone; *loss* is this rank's, a tensor without dimensions on the
        device.

        Raises:
            Diverged: by the loss of the step before.
        """
        heard = self.hear()
        numbers = torch.zeros(3, device=self._device)
        # Plain numbers become arguments of a kernel; a tensor made of them would be copied, and the host would wait.
        numbers[0], numbers[1] = asked.stop, float(asked.save)
        numbers[2] = loss / self._world_size
        self._pending, self._about = _Sum(numbers, self._world_size), (step, learning_rate)
        return heard if self._world_size > 1 else asked

    def hear(self) -> Agreed:
        """What was asked for at the newest step.

        Raises:
            Diverged: by that step's loss.
        """
        if self._pending is not None:
            stop, save, loss = self._pending.read()
            self._pending, self._agreed = None, Agreed(round(stop), bool(save))
            step, learning_rate = self._about
            self._health.loss(step, loss, learning_rate)
        return self._agreed


class EvaluationStopped(Exception):
    """All ranks leave an evaluation at the same batch."""


class StopPoll:
    """The same for the batches of one evaluation, where only a stop matters."""

    def __init__(self, device: torch.device, world_size: int) -> None:
        self._device, self._world_size = device, world_size
        self._pending: _Sum | None = None

    def __call__(self, stop: int) -> int:
        """What holds after this batch, of the same kind as `Agreed.stop`; *stop* counts on rank 0 alone."""
        if self._world_size == 1:
            return stop
        heard = round(self._pending.read()[0]) if self._pending else 0
        self._pending = _Sum(torch.full((1,), float(stop), device=self._device), self._world_size)
        return heard


class _Sum:
    """The sum of *numbers* over all ranks, on its way."""

    def __init__(self, numbers: torch.Tensor, world_size: int) -> None:
        self._numbers = numbers
        self._work = dist.all_reduce(numbers, async_op=True) if world_size > 1 else None
        self._copied = self._copy() if numbers.is_cuda else None

    def _copy(self) -> torch.cuda.Event:
        """To the host behind the step's own work: a copy that is asked for at the next step would wait for that too."""
        if self._work is not None:
            self._work.wait()  # of the stream, not of the host
        self._numbers = torch.empty_like(self._numbers, device="cpu", pin_memory=True).copy_(
            self._numbers, non_blocking=True
        )
        copied: torch.cuda.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        return copied

    def read(self) -> list[float]:
        if self._copied is not None:
            self._copied.synchronize()
        elif self._work is not None:
            self._work.wait()
        values: list[float] = self._numbers.tolist()
        return values
