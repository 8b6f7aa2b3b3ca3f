"""One live attempt at a run: who gets it, who waits, who is refused."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from job.attempts import Watch, claim
from job.errors import Bug, GpuFault, Interrupted, OutputTaken
from job.output import Output
from job.processes import StopRequest
from job.records import Progress
from tests.unit.attempts import (
    ELSEWHERE,
    QUICK,
    World,
    beat,
    ended_with,
    spec_for,
    state,
    still,
    until,
)


def test_the_first_attempt_gets_the_run_at_once_and_is_heard_of(place, take):
    world = World()
    attempt = take(place, world=world)

    assert (attempt.number, attempt.earlier, world.now) == (1, (), 0.0)
    until(state(place).pulse)
    pulse = state(place).pulse()
    assert (pulse.beat, pulse.num_gpus, pulse.ending, pulse.progress.step) == (0, 2, False, 7)
    until(lambda: "status.json" in Output(place).state_paths())


def test_an_attempt_that_has_ended_is_succeeded_at_once_and_remembered(place, take):
    first = take(place)
    first.end(ended_with(GpuFault("gone")))
    world = World()

    second = take(place, world=world)

    assert (second.number, world.now) == (2, 0.0)
    (past,) = second.earlier
    assert (past.number, past.outcome, past.pulse.ending) == (1, ended_with(GpuFault("gone")), True)


def test_a_live_attempt_keeps_the_run(place, take):
    take(place, rhythm=QUICK)

    with pytest.raises(OutputTaken, match="held by attempt 1, whose heart beats"):
        claim(Output(place), spec_for(place), lambda: Progress(phase="start"), 1, Watch(StopRequest(), print), QUICK)


def test_a_live_attempt_at_other_settings_keeps_the_run_too(folder, take):
    take(folder, rhythm=QUICK)

    with pytest.raises(OutputTaken, match="held by attempt 1"):
        claim(
            Output(folder), spec_for(folder, seed=7), lambda: Progress(phase="start"), 1, Watch(StopRequest(), print),
            QUICK,
        )  # fmt: skip
    assert Output(folder).decided(spec_for(folder, seed=7)) is None
    assert json.loads(Path(folder, "run.json").read_text())["spec"]["seed"] == 42, "the live run's own record stays"


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_of_ten_that_start_at_once_one_gets_the_run(kind, folder, request, take):
    place = folder
    if kind == "s3":
        request.getfixturevalue("s3_server")
        place = "s3://bucket/out"
    start = threading.Barrier(10)

    def try_it(_: int) -> str:
        start.wait()
        try:
            return f"attempt {take(place, world=RealTime(), rhythm=QUICK).number}"
        except OutputTaken:
            return "taken"

    with ThreadPoolExecutor(10) as pool:
        results = sorted(pool.map(try_it, range(10)))

    assert results == ["attempt 1"] + ["taken"] * 9


class RealTime(World):
    @property
    def watch(self) -> Watch:
        return Watch(self.stop, self.said.append)


def put_checkpoint(place: str, manifest: bytes | None) -> None:
    store = Output(place).state
    store.put("checkpoints/step-00000020/adapter_model.safetensors", b"weights")
    if manifest is not None:
        store.put("checkpoints/step-00000020/manifest.json", manifest)


def test_new_settings_replace_those_of_a_run_that_has_nothing_durable(place, take):
    take(place).end(ended_with(Bug("a bad setting")))
    put_checkpoint(place, None)

    attempt = take(place, spec_for(place, seed=7))

    assert (attempt.number, attempt.earlier) == (2, ())
    assert json.loads(Output(place).state.read("run.json"))["spec"]["seed"] == 7


def test_new_settings_are_refused_by_name_where_a_checkpoint_is_durable(place, take):
    spec = spec_for(place)
    take(place, spec).end(ended_with(Interrupted("SIGTERM")))
    put_checkpoint(place, json.dumps({"fingerprint": spec.fingerprint, "files": {}}).encode())

    with pytest.raises(OutputTaken, match=r"other settings: JOB_SEED was 42 and is 7\. "):
        take(place, spec_for(place, seed=7))
    assert take(place, spec_for(place, log_level="debug")).number == 2, "the same run, as nothing that counts differs"


@pytest.mark.parametrize("manifest", [b"", b"[]", b'{"files": {}}'])
def test_a_checkpoint_whose_manifest_says_nothing_keeps_no_place(folder, take, manifest):
    take(folder).end(ended_with(Bug("x")))
    put_checkpoint(folder, manifest)

    assert take(folder, spec_for(folder, seed=7)).number == 2


def test_settings_that_are_long_are_not_repeated_in_full(folder, take):
    spec = spec_for(folder)
    take(folder, spec).end(ended_with(Bug("x")))
    put_checkpoint(folder, json.dumps({"fingerprint": spec.fingerprint, "files": {}}).encode())
    many = spec.model_copy(update={"target_modules": tuple(f"module_{index}" for index in range(1000))})

    with pytest.raises(OutputTaken) as refused:
        take(folder, many)
    assert len(str(refused.value)) < 500


def test_where_a_store_lets_two_win_the_last_one_has_it(s3_server, take):
    s3_server.conditional = "ignored"
    place = "s3://bucket/out"
    output = Output(place)
    output.probe_write()
    assert not output.conditional

    def rival(now: float) -> None:
        """Writes its claim a moment after ours, and lives."""
        if now == 2.0:
            rivals = ELSEWHERE.model_copy(update={"fingerprint": "other"})
            state(place).put("claim.json", rivals.model_dump_json().encode())
        beat(state(place), int(now * 10))

    with pytest.raises(OutputTaken, match="held by attempt 1"):
        claim(output, spec_for(place), lambda: Progress(phase="start"), 1, World(rival).watch)


def test_where_a_store_lets_two_win_a_claim_that_stays_is_ours(s3_server, take):
    s3_server.conditional = "ignored"
    output, world = Output("s3://bucket/out"), World()
    output.probe_write()

    attempt = claim(output, spec_for("s3://bucket/out"), lambda: Progress(phase="start"), 1, world.watch)
    still(attempt)

    assert (attempt.number, world.now) == (1, 2.0)
