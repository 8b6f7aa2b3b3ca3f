"""One live attempt at a run: who gets it, who waits, who is refused."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from job.attempts import Attempt, Past, Watch, claim, crash_loop
from job.attempts import claim as claim_function
from job.attempts.folder import PROMPT, SPARING, AttemptFolder, Rhythm
from job.attempts.liveness import is_gone, make_claim
from job.errors import Bug, GpuFault, Interrupted, JobError, NetworkExhausted, OutputTaken
from job.outcome import failure, success
from job.output import Output
from job.processes import StopRequest
from job.records import Claim, Outcome, Progress, Pulse
from job.redact import redactor
from job.spec import JobSpec
from tests.tiny import ROOT

# Beats that a test can wait for; a lease that no busy machine lets pass between two of them.
QUICK = Rhythm(beat_s=0.1, lease_s=30, status_beats=3)
ELSEWHERE = Claim(fingerprint="", writer="w", host="another boot", pid=1, started=0)


def spec_for(place: str, **settings: Any) -> JobSpec:
    return JobSpec(model="org/base", dataset_uri="org/rows", output_uri=(place,), **settings)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "out")


@pytest.fixture(params=["folder", "s3", "hub"])
def place(request: pytest.FixtureRequest, folder: str) -> str:
    """An empty output of each kind."""
    if request.param == "s3":
        request.getfixturevalue("s3_server")
        return "s3://bucket/out"
    if request.param == "hub":
        request.getfixturevalue("hub_server").add("org/tuned", {})
        return "hf://org/tuned"
    return folder


class World:
    """A clock that only moves when somebody sleeps; *happens* then."""

    def __init__(self, happens: Callable[[float], None] = lambda now: None) -> None:
        self.now, self.stop, self.said, self._happens = 0.0, StopRequest(), list[str](), happens

    @property
    def watch(self) -> Watch:
        return Watch(self.stop, self.said.append, lambda: self.now, self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        self._happens(self.now)


@pytest.fixture
def take() -> Iterator[Callable[..., Attempt]]:
    """Claims a place; the hearts of what was claimed stop when the test ends."""
    attempts: list[Attempt] = []

    def take(place: str, spec: JobSpec | None = None, world: World | None = None, rhythm: Rhythm = PROMPT) -> Attempt:
        spec, world = spec or spec_for(place), world or World()
        output = Output(place)
        attempts.append(claim(output, spec, lambda: Progress(phase="train", step=7), 2, world.watch, rhythm))
        output.mark(spec)
        return attempts[-1]

    yield take
    for attempt in attempts:
        still(attempt)


def still(attempt: Attempt) -> None:
    """Stop its heart without a word, and with no beat under way that the next test's store would get."""
    attempt._heart._stopped.set()
    attempt._heart.join()


def state(place: str, number: int = 1) -> AttemptFolder:
    return AttemptFolder(Output(place).state, number)


def until(holds: Callable[[], Any]) -> None:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < 20, "it never came to be"
        time.sleep(0.02)


def someone_elses(place: str, *, fingerprint: str | None = None, number: int = 1) -> AttemptFolder:
    """An attempt of another machine, of which nothing has been heard since its first heartbeat."""
    theirs = state(place, number)
    known = {"fingerprint": fingerprint or spec_for(place).fingerprint}
    theirs.store.create(theirs.path("claim.json"), ELSEWHERE.model_copy(update=known).model_dump_json().encode())
    beat(theirs, 0)
    return theirs


def beat(theirs: AttemptFolder, number: int, *, ending: bool = False) -> None:
    pulse = Pulse(beat=number, elapsed_s=number, num_gpus=1, ending=ending, progress=Progress(phase="train"))
    theirs.put("heartbeat.json", pulse.model_dump_json().encode())


def put_outcome(theirs: AttemptFolder, outcome: Outcome) -> None:
    theirs.put("outcome.json", json.dumps(outcome.to_json()).encode())


def ended_with(error: JobError) -> Outcome:
    return failure(error, "train", 1, redactor({}))


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


def test_a_store_that_does_not_answer_is_no_successor(s3_server, take):
    attempt = take("s3://bucket/out", rhythm=QUICK)
    s3_server.faults.plan(path="claim", times=1000)

    with pytest.raises(NetworkExhausted):
        attempt.confirm()
    attempt.check()


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
    monkeypatch.setattr(sys.modules[claim_function.__module__], "_END_S", 0.5)
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


def test_the_hub_is_written_to_seldom_enough_for_its_limit_of_commits():
    per_hour = 3600 / SPARING.beat_s * (1 + 1 / SPARING.status_beats)

    assert per_hour <= 0.6 * 128  # the rest is for checkpoints
    assert SPARING.beat_s * SPARING.status_beats >= 300


def past(
    number: int, code: int | None, durable: int | None = None, phase: str = "train", *, step: int | None = None,
    ending: bool = False,
) -> Past:  # fmt: skip
    progress = Progress(phase=phase, step=step, last_durable_step=durable)
    pulse = Pulse(beat=1, elapsed_s=60, num_gpus=1, ending=ending, progress=progress)
    if code is None:
        return Past(number, None, pulse)
    outcome = Outcome(
        status="failed", code=code, error_class="Fault", phase=phase, cause=f"cause {number}.", fix="", attempt=number,
        last_durable_step=durable,
    )  # fmt: skip
    return Past(number, outcome, pulse)


def test_three_crashes_without_a_durable_step_are_enough_and_each_is_named():
    error = crash_loop([past(1, 75, durable=20), past(2, 81, durable=20), past(3, None, durable=20), past(4, 82, 20)])

    assert error.exit_code == 93
    assert "broke down after step 20" in error.cause
    assert "attempt 2: Fault (81): cause 2; attempt 3 died without a word; attempt 4: Fault (82): cause 4." in str(
        error
    )


@pytest.mark.parametrize(
    ("attempts", "loops"),
    [
        ([past(1, 81), past(2, 81)], False),
        ([past(1, 70), past(2, 80), past(3, None)], True),
        ([past(1, 81), past(2, 75), past(3, 81), past(4, 81)], False),
        ([past(1, 81), past(2, 81), past(3, 93)], False),
        ([past(1, 81), past(2, 81), past(3, 93), past(4, 81), past(5, 81)], False),
        ([past(1, 81), past(2, 81), past(3, 93), past(4, 81), past(5, 81), past(6, 81)], True),
        ([past(1, 81, durable=10), past(2, 81, durable=10), past(3, 81, durable=10)], False),
        ([past(1, 81, durable=10), *(past(number, 81, durable=10) for number in (2, 3, 4))], True),
        ([past(1, 81, durable=10), past(2, 81, 10), past(3, 81, 10), past(4, 81, durable=20)], False),
        ([past(1, 81, durable=10), past(2, 81, 10), past(3, 81, 10), past(4, 81, durable=None)], True),
        ([past(1, 81), past(2, 81), past(3, None, ending=True)], False),
        ([past(1, 81), past(2, 81), past(3, 80, phase="inspect")], False),
        ([past(1, 81), past(2, 81), past(3, None, phase="publish", step=9)], True),
        ([past(1, 81), past(2, 81), Past(3, None, None)], False),
        ([past(1, 84), past(2, 84), past(3, 84)], False),
        ([], False),
    ],
    ids=[
        "two are too few", "bugs, hosts and deaths count", "a preemption breaks the chain", "a refusal breaks it",
        "after a refusal two more tries", "and a third", "the first one made progress", "nobody after it did",
        "the last one did", "lost ground is no progress", "told to stop", "not yet in training", "after training",
        "never heard of", "an upload is no crash", "no attempts",
    ],
)  # fmt: skip
def test_what_makes_a_crash_loop(attempts, loops):
    assert (crash_loop(attempts) is not None) == loops


def test_the_attempt_that_fails_for_the_third_time_can_say_so_itself(folder, take):
    for _ in range(2):
        take(folder).end(ended_with(GpuFault("fell off the bus")))
    third = take(folder)
    last = ended_with(GpuFault("fell off the bus"))

    assert crash_loop(third.earlier) is None
    assert "attempt 3: GpuFault (81)" in crash_loop([*third.earlier, third.past(last)]).cause
