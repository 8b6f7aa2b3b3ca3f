"""Processes that share the work of preparation: Python renders and masks one row at a time, whatever the cores."""

import gc
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from job.child import describe
from job.errors import UnsuitableHost, error_for
from job.records import WorkerError

Item = TypeVar("Item")
Result = TypeVar("Result")

# Forked, so that each has the loaded tokenizer without loading it.
_FORK = multiprocessing.get_context("fork")


class Crew(Generic[Item, Result]):
    """*size* processes that do the same *work* on one item after another. Make it before any thread is started."""

    def __init__(self, work: Callable[[Item], Result], size: int) -> None:
        self._members: list[_Member] = []
        for _ in range(size):
            self._members.append(_Member(work, [member.connection for member in self._members]))

    def map(self, items: Iterable[Item]) -> Iterator[Result]:
        """The results, in the order of *items*. Only one item per process is in flight, so memory stays bounded.

        Raises:
            JobError: what *work* raised, as far as it can be told; a process died.
        """
        idle, busy = deque(self._members), deque[_Member]()
        for item in items:
            if idle:
                busy.append(idle.popleft().hand(item))
                continue
            member = busy.popleft()
            result = member.result()
            busy.append(member.hand(item))  # before the caller works on the result
            yield result
        for member in busy:
            yield member.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self._members:
            member.end()


class _Member:
    """One process, and the connection to it."""

    def __init__(self, work: Callable[[Any], Any], others: list[Connection]) -> None:
        self.connection, theirs = _FORK.Pipe()
        # A process that held the other's ends open would keep it waiting after this one has died.
        foreign = [*others, self.connection]
        self._process: ForkProcess = _FORK.Process(target=_work, args=(work, theirs, foreign), daemon=True)
        self._process.start()
        theirs.close()

    def hand(self, item: Any) -> Self:
        try:
            self.connection.send(item)
        except BrokenPipeError as error:
            raise self._death() from error
        return self

    def result(self) -> Any:
        try:
            result = self.connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._death() from error
        if isinstance(result, WorkerError):
            failure = error_for(result.code)(result.cause, result.fix)
            failure.add_note(result.traceback)
            raise failure
        return result

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()

    def _death(self) -> UnsuitableHost:
        self._process.join()
        status = self._process.exitcode or 0
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return UnsuitableHost(f"A process that prepares rows {how}.", "Mostly the memory is full; give the job more.")


def _work(work: Callable[[Any], Any], connection: Connection, foreign: list[Connection]) -> None:
    for other in foreign:
        other.close()
    gc.freeze()  # or the collector would walk, and thereby copy, all that was inherited
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the other cores have a process of their own
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        try:
            result = work(item)
        except Exception as error:  # the boundary of the process: everything is reported, nothing swallowed
            result = describe(error, rank=0)
        connection.send(result)
