"""An attempt that goes on: how it is heard of, how it learns of a successor, how it ends."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from job.attempts import claim
from job.attempts.folder import SPARING, Rhythm
from job.errors import GpuFault, NetworkExhausted, OutputTaken
from job.outcome import success
from job.output import Output
from job.records import Progress
from tests.unit.attempts import QUICK, World, ended_with, spec_for, state, still, until


def test_an_attempt_that_was_taken_for_dead_learns_of_its_successor(place, take):
    first = take(place, rhythm=QUICK)
    first.check()
    first.confirm()

    state(place, 2).put("claim.json", b"{}")

    with pytest.raises(OutputTaken, match="Attempt 2 has taken over"):
        first.confirm()
    until(lambda: first._heart.superseded)
    with pytest.raises(OutputTaken):
        first.check()


def test_a_superseded_attempt_says_how_it_ended_and_leaves_the_rest_to_its_successor(folder, take):
    first = take(folder, rhythm=Rhythm(beat_s=60, lease_s=180, status_beats=1))
    until(Path(folder, "status.json").exists)
    state(folder, 2).put("claim.json", b"{}")
    Path(folder, "status.json").write_text("the successor's")
    before = Path(folder, "attempts/0001/heartbeat.json").read_bytes()

    first._heart._beat()
    first.end(ended_with(OutputTaken("lost")))

    assert json.loads(Path(folder, "attempts/0001/outcome.json").read_bytes())["code"] == 73
    assert Path(folder, "status.json").read_text() == "the successor's"
    assert Path(folder, "attempts/0001/heartbeat.json").read_bytes() == before


def test_a_heart_goes_on_when_the_store_fails_for_a_while(s3_server, take):
    s3_server.faults.plan(method="PUT", path="heartbeat", times=6)
    attempt = take("s3://bucket/out", rhythm=QUICK)

    until(lambda: (pulse := state("s3://bucket/out").pulse()) and pulse.beat > 3)
    attempt.check()
    assert s3_server.faults.struck["status"] == 6


@pytest.mark.parametrize(("method", "path"), [("GET", "attempts/0002/claim"), ("PUT", "attempts/0001/heartbeat")])
def test_a_request_that_hangs_does_not_keep_the_next_beat_waiting(s3_server, take, method, path):
    attempt = take("s3://bucket/out", rhythm=QUICK)
    until(state("s3://bucket/out").pulse)
    began = time.monotonic()
    s3_server.faults.plan("slow", method=method, path=path, times=1, seconds=8)
    before = state("s3://bucket/out").pulse().beat

    until(lambda: state("s3://bucket/out").pulse().beat > before + 2)

    assert time.monotonic() - began < 6
    attempt.check()


def test_a_folder_that_never_answers_takes_no_more_than_a_few_threads(folder, take):
    before = threading.active_count()
    hangs = Path(folder, "attempts/0002/claim.json")
    hangs.parent.mkdir(parents=True)
    os.mkfifo(hangs)  # as a volume whose server is gone: who opens it waits
    attempt = take(folder, rhythm=Rhythm(beat_s=0.01, lease_s=30, status_beats=3))

    time.sleep(1)
    more = threading.active_count() - before
    answers = os.open(hangs, os.O_WRONLY)  # so that they end: those that wait, and who opens it before it is gone
    hangs.unlink()
    os.close(answers)

    assert more <= 10
    attempt.check()


def test_a_store_that_does_not_answer_is_no_successor(s3_server, take):
    attempt = take("s3://bucket/out", rhythm=QUICK)
    s3_server.faults.plan(path="claim", times=1000)

    with pytest.raises(NetworkExhausted):
        attempt.confirm()
    attempt.check()


def test_a_new_phase_is_told_at_once(folder):
    now = Progress(phase="prepare")
    attempt = claim(Output(folder), spec_for(folder), lambda: now, 1, World().watch)  # with ten seconds between beats
    until(state(folder).pulse)
    began = time.monotonic()

    now = Progress(phase="train")

    until(lambda: state(folder).pulse().progress.phase == "train")
    assert time.monotonic() - began < 5
    still(attempt)


def test_a_signal_is_told_at_once_to_whoever_waits(folder, take):
    world = World()
    take(folder, world=world)  # with ten seconds between beats
    until(state(folder).pulse)
    began = time.monotonic()

    world.stop._note(signal.SIGTERM, None)

    until(lambda: state(folder).pulse().ending)
    assert time.monotonic() - began < 5


def test_the_end_is_told_in_outcome_heartbeat_and_status(place, take):
    take(place).end(ended_with(GpuFault("gone", "elsewhere")))

    assert state(place).outcome() == ended_with(GpuFault("gone", "elsewhere"))
    assert state(place).pulse().ending
    told = json.loads(Output(place).state.read("status.json"))
    assert (told["attempt"], told["step"], told["ended"]["class"]) == (1, 7, "GpuFault")


def test_an_outcome_that_the_store_refuses_at_first_is_told_again(s3_server, take):
    attempt = take("s3://bucket/out")
    s3_server.faults.plan(method="PUT", path="outcome", times=3)  # the SDK tries twice

    attempt.end(success("done", 1))

    assert state("s3://bucket/out").outcome() == success("done", 1)


def test_a_store_that_hangs_does_not_keep_the_job_from_ending(s3_server, take, monkeypatch):
    monkeypatch.setattr(sys.modules["job.attempts.claim"], "_END_S", 0.5)
    attempt = take("s3://bucket/out")
    until(lambda: "status.json" in Output("s3://bucket/out").state_paths())
    s3_server.faults.plan("slow", path="out/", times=1000, seconds=3)
    began = time.monotonic()

    attempt.end(success("done", 1))

    assert time.monotonic() - began < 2.5
    s3_server.faults.clear()
    until(
        lambda: b'"Success"' in Output("s3://bucket/out").state.read("status.json")
    )  # the next test's store is its own


def test_the_hub_is_written_to_seldom_enough_for_its_limit_of_commits():
    per_hour = 3600 / SPARING.beat_s * (1 + 1 / SPARING.status_beats)

    assert per_hour <= 0.6 * 128  # the rest is for checkpoints
    assert SPARING.beat_s * SPARING.status_beats >= 300
