"""How long a request is tried again after failures of the network or of the store: the same for every store.

The waits grow and are random ("full jitter": Brooker, "Exponential backoff and jitter", AWS Architecture Blog, 2015),
so that requests which failed together do not come back together.
"""

import random
import time

PATIENCE_S = 90.0  # stores that restart or fail over are back within a minute
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 8.0


class Patience:
    """With one request, for *limit_s* seconds (None: `PATIENCE_S`). What counts is the time since its first failure,
    not since it began: an upload of an hour that fails at its end is repeated too."""

    def __init__(self, limit_s: float | None = None) -> None:
        self._limit_s = PATIENCE_S if limit_s is None else limit_s
        self._failures = 0
        self._since = 0.0

    def wait_s(self) -> float | None:
        """After a failure: the seconds to wait before the next try, or None when it is time to give up."""
        self._since = self._since or time.monotonic()
        if time.monotonic() - self._since >= self._limit_s:
            return None
        longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0**self._failures)
        self._failures += 1
        return random.uniform(0, longest)  # noqa: S311 (no secret)
