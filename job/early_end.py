"""Why training has to end before its last step."""

import time
from collections.abc import Callable

from job.deadline import Deadline
from job.errors import Interrupted, JobError, OutputTaken
from job.processes import StopRequest
from job.records import StopNotice


class EarlyEnd:
    """Watches all that can end training early. The first reason that is found holds."""

    def __init__(
        self,
        stop: StopRequest,
        grace_s: float,
        deadline: Deadline | None,
        reserve_s: Callable[[], float],
        check: Callable[[], None],
    ) -> None:
        """*reserve_s* seconds before *deadline* training has to stop; *check* raises once the output is no longer ours
        to write."""
        self._stop, self._grace_s, self._deadline = stop, grace_s, deadline
        self._reserve_s, self._check = reserve_s, check
        self.error: JobError | None = None
        self._notice: StopNotice | None = None

    def notice(self) -> StopNotice | None:
        """What to tell the workers, if they have to stop."""
        if self.error is None:
            self._look()
        elif self._notice and self._stop.since is not None:  # a signal after it may leave less time
            sooner = min(self._notice.deadline, self._stop.since + self._grace_s)
            self._notice = self._notice.model_copy(update={"deadline": sooner})
        return self._notice

    def _look(self) -> None:
        now = time.monotonic()
        if self._stop.signal is not None and self._stop.since is not None:
            self._found(Interrupted(f"{self._stop.signal.name} arrived."), self._stop.since + self._grace_s)
        elif self._deadline and now >= self._deadline.ends_at - self._reserve_s():
            self._found(self._deadline.error(), self._deadline.ends_at)
        else:
            try:
                self._check()
            except OutputTaken as error:  # another attempt trains already: not one step more
                self._found(error, now)
            except JobError as error:
                self._found(error, now + self._grace_s)

    def _found(self, error: JobError, deadline: float) -> None:
        self.error, self._notice = error, StopNotice(reason=error.cause, deadline=deadline)
