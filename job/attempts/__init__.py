"""Attempts at one run: who holds it, that it still lives, and what became of those before.

::

    attempts/0001/  claim.json      made if absent; whoever makes it holds the run
                    heartbeat.json  written again and again; seen to change, the attempt lives
                    outcome.json    how it ended; without it the attempt goes on, or died
    status.json     how far the run is, for anyone who looks

No clock of another machine is trusted: whoever waits measures, by its own, how long a heartbeat stays the same.
"""

from job.attempts.claim import Attempt, claim
from job.attempts.history import Past, crash_loop
from job.attempts.liveness import Watch

__all__ = ["Attempt", "Past", "Watch", "claim", "crash_loop"]
