"""`status`: how far a run is, seen from outside, with read access to its output and nothing else."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from job.attempts.claim import rhythm_of
from job.attempts.folder import HEARTBEAT, AttemptFolder, Rhythm, find_attempts, status
from job.attempts.liveness import LOOKS_PER_BEAT, is_gone
from job.console import Console
from job.errors import BadSpec, NotFound
from job.output import Output
from job.pace import duration
from job.processes import StopRequest, Task
from job.records import Progress, Pulse
from job.storage.transfer import MANIFEST

_BEATS = 1.5  # to wait for a heartbeat to change: one, and time for it to be written

Status = dict[str, Any]  # as in status.json, with whether the attempt is alive (None: it has ended)


def show_status(uri: str, console: Console, stop: StopRequest, stream: TextIO, *, as_json: bool = False) -> str:
    """Write to *stream* what runs at *uri*, or how it ended. Returns that in one sentence.

    Raises:
        BadSpec: *uri* is no place of an output.
        NotFound: no run has ever been there.
        AccessDenied, NetworkExhausted: it cannot be read.
    """
    try:
        output = Output(uri)
    except ValueError as error:
        raise BadSpec(f"status {uri}: {error}.", "Give the JOB_OUTPUT_URI of the run.") from error
    found = Task(lambda: look(output, rhythm_of(output), console.say)).result(stop)
    stream.write(json.dumps({"uri": uri, **found}, ensure_ascii=False) + "\n" if as_json else to_text(uri, found))
    return f"{uri}: {_in_words(found)}."


def look(
    output: Output, rhythm: Rhythm, say: Callable[[str], None], sleep: Callable[[float], None] = time.sleep
) -> Status:
    """What became of the newest attempt at *output*; of one that has not ended, whether its heart beats.

    Raises:
        NotFound: there is no attempt, nor a result that was copied there.
    """
    attempts = find_attempts(output.state, output.state_paths())
    if not attempts:
        return _copy(output)
    newest = attempts[-1]
    alive = _beats(newest, rhythm, say, sleep) if newest.outcome() is None else None
    pulse = newest.pulse() or Pulse(beat=0, elapsed_s=0, num_gpus=0, progress=Progress(phase="start"))
    outcome = newest.outcome()  # it may have ended while we watched
    return status(newest.number, pulse, outcome) | {"alive": None if outcome else alive}


def _copy(output: Output) -> Status:
    """A second output holds a finished result and nothing of how it came about."""
    try:
        made_by = json.loads(output.result.read(MANIFEST))["attempt"]
    except (NotFound, ValueError, KeyError, TypeError):
        raise NotFound(f"{output.text} holds no run of this job.", "Check the URI.") from None
    pulse = Pulse(beat=0, elapsed_s=0, num_gpus=0, progress=Progress(phase="done"))
    return status(made_by, pulse, None) | {"alive": None}


def _beats(folder: AttemptFolder, rhythm: Rhythm, say: Callable[[str], None], sleep: Callable[[float], None]) -> bool:
    claim, first = folder.claim(), folder.read(HEARTBEAT)
    if claim and is_gone(claim):
        return False
    say(f"watching the heartbeat of attempt {folder.number} for up to {_BEATS * rhythm.beat_s:g} s")
    for _ in range(round(_BEATS * LOOKS_PER_BEAT)):
        sleep(rhythm.beat_s / LOOKS_PER_BEAT)
        if folder.read(HEARTBEAT) != first:
            return True
    return False


def to_text(uri: str, found: Status) -> str:
    """*found* for a person."""
    lines = {"output": uri, "attempt": f"{found['attempt']}: {_in_words(found)}"} | dict(_figures(found))
    if found["ended"]:
        lines |= {"cause": found["ended"]["cause"], "fix": found["ended"]["fix"]}
    return "".join(f"{name:<18} {value}\n" for name, value in lines.items() if value != "")


def _figures(found: Status) -> Iterator[tuple[str, str]]:
    """All that is known of the progress, in words."""
    yield "phase", found["ended"]["phase"] if found["ended"] else found["phase"]
    if found["elapsed_s"]:
        yield "running for" if found["alive"] else "ran for", duration(found["elapsed_s"])
    if found["step"] is not None:
        yield "step", f"{found['step']:,} of {found['total_steps']:,}"
    for name in ("loss", "eval_loss"):
        if found[name] is not None:
            yield name.replace("_", " "), f"{found[name]:.4f}"
    if found["tokens_per_s"] is not None:
        yield "speed", f"{found['tokens_per_s']:,.0f} tokens/s"
    if found["left_s"] is not None and found["alive"]:
        yield "left", f"{duration(found['left_s'])} of training"
    if found["last_durable_step"] is not None:
        yield "last durable step", f"{found['last_durable_step']:,}"


def _in_words(found: Status) -> str:
    match found:
        case {"ended": None, "alive": None}:
            return "finished; this is a copy of its result"
        case {"ended": None, "alive": alive}:
            return "alive" if alive else "no heartbeat: it died, or cannot reach its output"
        case {"ended": {"code": 0}}:
            return "finished"
        case {"ended": ended}:
            return f"ended with {ended['class']} ({ended['code']})"
    raise AssertionError(found)
