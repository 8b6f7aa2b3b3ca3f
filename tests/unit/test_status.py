"""A run seen from outside."""

import io
import json
import time

import pytest

from job import cli, outcome
from job.attempts import Watch, claim
from job.attempts.folder import PROMPT, SPARING, AttemptFolder
from job.attempts.liveness import make_claim
from job.console import Console
from job.errors import BadSpec, GpuFault, NotFound
from job.outcome import failure, success
from job.output import Output
from job.processes import StopRequest
from job.records import Claim, Progress, Pulse
from job.redact import redactor
from job.spec import JobSpec
from job.status import look, show_status, to_text
from tests.unit.attempts import QUICK

HALFWAY = Progress(
    phase="train", step=1200, total_steps=4000, loss=1.25, eval_loss=1.5, tokens_per_s=12345.6, left_s=3905,
    last_durable_step=1000,
)  # fmt: skip


def died_elsewhere(place: str, progress: Progress = HALFWAY) -> AttemptFolder:
    """Or lives there still: that cannot be seen at once."""
    folder = AttemptFolder(Output(place).state, 1)
    folder.put("claim.json", Claim(fingerprint="f", writer="w", host="h", pid=1, started=0).model_dump_json().encode())
    beat(folder, 3, progress)
    return folder


def beat(folder: AttemptFolder, number: int, progress: Progress = HALFWAY) -> None:
    pulse = Pulse(beat=number, elapsed_s=600, num_gpus=1, progress=progress)
    folder.put("heartbeat.json", pulse.model_dump_json().encode())


def test_a_run_that_goes_on_is_seen_to_be_alive_by_its_moving_heartbeat(place):
    theirs = died_elsewhere(place)

    found = look(Output(place), PROMPT, lambda _: None, lambda _: beat(theirs, 4))

    assert (found["alive"], found["attempt"], found["step"], found["ended"]) == (True, 1, 1200, None)


def test_a_run_that_is_silent_for_more_than_a_beat_is_said_to_be(place):
    died_elsewhere(place)
    slept: list[float] = []

    found = look(Output(place), PROMPT, lambda _: None, slept.append)

    assert (found["alive"], found["ended"]) == (False, None)
    assert PROMPT.beat_s < sum(slept) < PROMPT.lease_s


def test_a_run_that_has_ended_is_told_at_once_with_its_cause(place):
    spec = JobSpec(model="org/base", dataset_uri="org/rows", output_uri=(place,))
    attempt = claim(Output(place), spec, lambda: HALFWAY, 1, Watch(StopRequest(), print), QUICK)
    attempt.end(failure(GpuFault("The GPU fell off the bus.", "Use another."), "train", 1, redactor({}), 1000))
    shown = io.StringIO()

    said = show_status(place, Console(io.StringIO(), redactor({})), StopRequest(), shown)

    assert said == f"{place}: ended with GpuFault (81)."
    for word in ("1: ended with GpuFault (81)", "The GPU fell off the bus.", "Use another.", "1,200 of 4,000"):
        assert word in shown.getvalue()
    assert "left" not in shown.getvalue()


def test_an_end_that_comes_while_we_look_is_the_end(place):
    theirs = died_elsewhere(place)
    end = json.dumps(success("done", 1).to_json()).encode()

    found = look(Output(place), PROMPT, lambda _: None, lambda _: theirs.put("outcome.json", end))

    assert (found["alive"], found["ended"]["code"]) == (None, 0)


def test_nothing_but_reading_is_done_with_a_store(s3_server):
    died_elsewhere("s3://bucket/out")
    s3_server.requests.clear()

    look(Output("s3://bucket/out"), PROMPT, lambda _: None, lambda _: None)

    assert {request.method for request in s3_server.requests} <= {"GET", "HEAD"}


def test_a_token_that_may_only_read_is_enough(hub_server, monkeypatch):
    from tests.servers.hub_server import READ_TOKEN

    hub_server.add("org/tuned", {})
    died_elsewhere("hf://org/tuned")
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)

    assert look(Output("hf://org/tuned"), SPARING, lambda _: None, lambda _: None)["step"] == 1200


def test_where_no_run_has_been_it_is_66(place):
    with pytest.raises(NotFound, match="holds no run of this job"):
        look(Output(place), PROMPT, lambda _: None)


def test_a_bucket_that_does_not_exist_holds_no_run(s3_server):
    with pytest.raises(NotFound):
        look(Output("s3://elsewhere/out"), PROMPT, lambda _: None)


def test_a_place_without_a_run_but_with_a_manifest_of_something_else_holds_none(tmp_path):
    (tmp_path / "manifest.json").write_text('{"files": []}')

    with pytest.raises(NotFound):
        look(Output(str(tmp_path)), PROMPT, lambda _: None)


def test_a_second_output_is_said_to_be_a_copy(tmp_path):
    (tmp_path / "manifest.json").write_text('{"files": {}, "fingerprint": "f", "attempt": 3}')

    found = look(Output(str(tmp_path)), PROMPT, lambda _: None)

    assert "3: finished; this is a copy of its result" in to_text("here", found)


@pytest.mark.parametrize("uri", ["org/name", "ftp://host/x", "s3://"])
def test_what_is_no_output_is_78(uri):
    with pytest.raises(BadSpec, match="status"):
        show_status(uri, Console(io.StringIO(), redactor({})), StopRequest(), io.StringIO())


def test_a_loss_that_is_no_number_breaks_no_json(tmp_path):
    died_elsewhere(str(tmp_path), HALFWAY.model_copy(update={"loss": float("nan")}))

    found = look(Output(str(tmp_path)), PROMPT, lambda _: None, lambda _: None)

    assert json.loads(json.dumps(found, allow_nan=False))["loss"] is None


def test_a_run_that_goes_on_reads_well(tmp_path):
    theirs = died_elsewhere(str(tmp_path))

    found = look(Output(str(tmp_path)), PROMPT, lambda _: None, lambda _: beat(theirs, 4))

    assert to_text("./out", found) == (
        "output             ./out\n"
        "attempt            1: alive\n"
        "phase              train\n"
        "running for        10m00s\n"
        "step               1,200 of 4,000\n"
        "loss               1.2500\n"
        "eval loss          1.5000\n"
        "speed              12,346 tokens/s\n"
        "left               1h05m of training\n"
        "last durable step  1,000\n"
    )


@pytest.mark.parametrize("argv", [["status", "{}", "--json"], ["status", "--json", "{}"]])
def test_the_verb_needs_no_settings_and_leaves_the_termination_log_to_the_job(tmp_path, capsys, monkeypatch, argv):
    log = tmp_path / "log"
    log.touch()
    monkeypatch.setattr(outcome.write_termination_log, "__defaults__", (log,))
    spec = JobSpec(model="org/base", dataset_uri="org/rows", output_uri=(str(tmp_path / "out"),))
    attempt = claim(Output(str(tmp_path / "out")), spec, lambda: HALFWAY, 1, Watch(StopRequest(), print), QUICK)
    attempt.end(success("done", 1))

    code = cli.main([word.format(tmp_path / "out") for word in argv], {})

    found, last = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (code, last["code"], found["ended"]["code"]) == (0, 0, 0)
    assert found["uri"] == str(tmp_path / "out")
    assert log.read_text() == ""
    assert cli.main(["status"], {}) == 78
    assert cli.main(["preview"], {}) == 78
    assert log.read_text() != "", "every other verb has the last word"


def test_an_attempt_whose_process_here_is_gone_is_not_watched(tmp_path):
    folder = AttemptFolder(Output(str(tmp_path)).state, 1)
    dead = make_claim("f").model_copy(update={"started": 1.0})
    folder.put("claim.json", dead.model_dump_json().encode())
    began = time.monotonic()

    assert look(Output(str(tmp_path)), PROMPT, lambda _: None)["alive"] is False
    assert time.monotonic() - began < 2
