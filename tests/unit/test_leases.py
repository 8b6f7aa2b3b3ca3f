"""When an attempt of which nothing is heard counts as over."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from job.attempts import Watch, claim
from job.attempts.folder import PROMPT
from job.attempts.liveness import is_gone, make_claim
from job.errors import Interrupted, OutputTaken
from job.outcome import success
from job.output import Output
from job.records import Progress
from tests.tiny import ROOT
from tests.unit.attempts import (
    World,
    beat,
    ended_with,
    put_outcome,
    someone_elses,
    spec_for,
    state,
    until,
)


def test_a_silent_attempt_is_succeeded_after_one_lease_and_not_before(place, take):
    someone_elses(place)
    world = World()

    attempt = take(place, world=world)

    assert attempt.number == 2
    assert PROMPT.lease_s <= world.now < PROMPT.lease_s + 5
    assert "watching its heartbeat for 30 s" in world.said[0]
    assert [past.outcome for past in attempt.earlier] == [None]


def test_a_heartbeat_late_in_the_lease_is_a_sign_of_life(folder, take):
    theirs = someone_elses(folder)
    world = World(lambda now: beat(theirs, 1) if now >= 28 else None)

    with pytest.raises(OutputTaken):
        take(folder, world=world)
    assert not Path(folder, "attempts/0002").exists()


def test_a_machine_that_slept_through_the_lease_looks_once_more_before_it_believes_in_silence(folder, take):
    theirs = someone_elses(folder)
    world = World(lambda now: beat(theirs, 1))
    nap = Watch(world.stop, world.said.append, lambda: world.now, lambda _: world._sleep(3600))

    with pytest.raises(OutputTaken):
        claim(Output(folder), spec_for(folder), lambda: Progress(phase="start"), 1, nap)


def test_an_outage_that_both_have_seen_is_nobodys_silence(folder, take):
    theirs = someone_elses(folder)
    world = World(lambda now: hang(world) if now == 4 else beat(theirs, 1) if now >= HUNG_S + 20 else None)

    with pytest.raises(OutputTaken, match="whose heart beats"):
        take(folder, world=world)


def test_an_attempt_that_died_in_an_outage_is_succeeded_after_one_lease_besides(folder, take):
    someone_elses(folder)
    world = World(lambda now: hang(world) if now == 4 else None)

    assert take(folder, world=world).number == 2
    assert PROMPT.lease_s - 5 <= world.now - HUNG_S < PROMPT.lease_s + 5


HUNG_S = 3600


def hang(world: World) -> None:
    """A look of that time in a store that does not answer."""
    world.now += HUNG_S


def test_an_outcome_that_appears_ends_the_wait(folder, take):
    theirs = someone_elses(folder)
    world = World(lambda now: put_outcome(theirs, success("done", 1)) if now >= 4 else None)

    assert take(folder, world=world).number == 2
    assert world.now < 10


def test_an_attempt_that_is_being_stopped_is_waited_for_as_long_as_its_heart_beats(folder, take):
    theirs = someone_elses(folder)

    def saves_for_a_minute(now: float) -> None:
        beat(theirs, int(now), ending=True)
        if now >= 60:
            put_outcome(theirs, ended_with(Interrupted("SIGTERM arrived.")))

    world = World(saves_for_a_minute)

    assert take(folder, world=world).number == 2
    assert 60 <= world.now < 65


def test_an_attempt_that_is_killed_while_it_is_being_stopped_is_silent_for_one_lease_first(folder, take):
    theirs = someone_elses(folder)
    world = World(lambda now: beat(theirs, int(now), ending=True) if now <= 20 else None)

    assert take(folder, world=world).number == 2
    assert 20 <= world.now - PROMPT.lease_s < 25


def test_a_signal_ends_the_wait(folder, take):
    someone_elses(folder)
    world = World(lambda now: world.stop._note(signal.SIGTERM, None))

    with pytest.raises(Interrupted):
        take(folder, world=world)
    assert not Path(folder, "attempts/0002").exists()


CLAIM_AND_WAIT = """
import sys, time
from job.attempts import Watch, claim
from job.output import Output
from job.processes import StopRequest
from job.records import Progress
from job.spec import JobSpec
spec = JobSpec.model_validate_json(sys.argv[1])
claim(Output(spec.output_uri[0]), spec, lambda: Progress(phase="train"), 1, Watch(StopRequest(), print))
print("claimed", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("reaped", [True, False])
def test_an_attempt_whose_process_was_killed_on_this_very_host_is_succeeded_at_once(folder, take, reaped):
    spec = spec_for(folder)
    process = subprocess.Popen(
        [sys.executable, "-c", CLAIM_AND_WAIT, spec.model_dump_json()], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "claimed\n"
    process.kill()
    if reaped:
        process.wait()
    else:
        until(lambda: b") Z" in Path(f"/proc/{process.pid}/stat").read_bytes())
    world = World()

    attempt = take(folder, world=world)

    assert (attempt.number, world.now) == (2, 0.0)
    process.wait()


def test_only_a_process_of_this_very_host_is_known_to_be_gone():
    mine = make_claim("f")

    assert not is_gone(mine)
    assert is_gone(mine.model_copy(update={"started": mine.started - 1})), "the number was used again"
    assert is_gone(mine.model_copy(update={"pid": 2**22 + 1}))
    assert not is_gone(mine.model_copy(update={"pid": 2**22 + 1, "host": "another boot"}))


@pytest.mark.parametrize("content", [b"", b"[]", b'{"fingerprint": "x"}', b"\xff"])
def test_a_claim_that_cannot_be_read_is_watched_like_any_other(folder, take, content):
    state(folder).put("claim.json", content)
    world = World()

    attempt = take(folder, world=world)

    assert (attempt.number, attempt.earlier) == (2, ())
    assert world.now >= PROMPT.lease_s
