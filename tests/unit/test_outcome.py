"""The last line of stdout, and what may not stand in it."""

import io
import json

import pytest

from job import cli, outcome
from job.errors import (
    ERROR_CLASSES,
    AccessDenied,
    AdapterRejected,
    BadData,
    DeadlineReached,
    Interrupted,
    NetworkExhausted,
    UploadIncomplete,
    error_for,
)
from job.outcome import LIMIT_BYTES, failure, success, to_line, upload_error, write_termination_log
from job.records import Outcome
from job.redact import redactor

TOKEN = "hf_" + "x" * 34


def test_an_outcome_is_one_line_of_json_with_the_documented_keys():
    line = to_line(failure(BadData("rows.jsonl:3: broken", "Mend it."), "prepare", 2, redactor({})))

    assert "\n" not in line
    assert json.loads(line) == {
        "status": "failed", "code": 65, "class": "BadData", "phase": "prepare", "cause": "rows.jsonl:3: broken",
        "fix": "Mend it.", "last_durable_step": None, "attempt": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Interrupted("SIGTERM arrived."), "interrupted"),
        (DeadlineReached("JOB_MAX_HOURS=1 is reached.", published=True), "partial"),
        (DeadlineReached("JOB_MAX_HOURS=1 is reached."), "failed"),
        (AdapterRejected("A layer is missing.", published=True), "rejected"),
        (AdapterRejected("No parameter is trainable."), "failed"),
    ],
)
def test_an_outcome_says_what_kind_of_end_it_was(error, status):
    assert json.loads(to_line(failure(error, "train", 1, redactor({}))))["status"] == status


@pytest.mark.parametrize(("step", "place"), [(None, "it begins anew"), (40, "it goes on from step 40")])
def test_an_interrupted_job_says_from_where_it_goes_on(step, place):
    outcome = failure(Interrupted("SIGTERM arrived."), "train", 1, redactor({}), step)

    assert outcome.fix == f"Run the same job again; {place}."
    uploading = failure(Interrupted("SIGTERM arrived."), "publish", 1, redactor({}), step)
    assert uploading.fix == f"Run the same job again; {place}; on this machine it only uploads."


def test_a_deadline_before_anything_was_published_points_to_the_newest_checkpoint():
    late = DeadlineReached("JOB_MAX_HOURS=1 is reached.", "Raise it.")

    assert (
        failure(late, "plan", 2, redactor({}), 40).fix
        == "Raise it. Its newest adapter is in checkpoints/step-00000040."
    )
    assert failure(late, "plan", 2, redactor({})).fix == "Raise it."


@pytest.mark.parametrize("odd", [chr(0xDCFF), chr(0xD83D)])  # a byte that is no UTF-8; half of an emoji
def test_what_is_no_text_does_not_keep_an_outcome_from_being_told(odd):
    line = to_line(failure(BadData(f"/m/{odd} is bad", f"Mend {odd}."), "load", None, redactor({})))

    shown = odd.encode(errors="backslashreplace").decode()
    assert json.loads(line.encode())["cause"] == f"/m/{shown} is bad"
    assert json.loads(line)["fix"] == f"Mend {shown}."


@pytest.mark.parametrize("character", ["x", "ü", "\n", '"', "\u0000", "🙂"])
def test_a_long_cause_is_shortened_and_the_json_stays_whole(character):
    line = to_line(failure(BadData(character * 9000, character * 9000), "prepare", 1, redactor({})))

    assert len(line.encode()) <= LIMIT_BYTES
    assert json.loads(line)["code"] == 65


@pytest.mark.parametrize(
    ("env", "text", "secret"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "very-secret-value"}, "the key very-secret-value is wrong", "very-secret-value"),
        ({"WANDB_API_KEY": "0123456789abcdef"}, "0123456789abcdef", "0123456789abcdef"),
        ({}, f"Bearer {TOKEN}", TOKEN),
        ({}, "key AKIAABCDEFGHIJKLMNOP", "AKIAABCDEFGHIJKLMNOP"),
        ({}, "https://user:hunter22@host/path", "hunter22"),
        ({}, "https://host/?X-Amz-Signature=abc123&x=1", "abc123"),
    ],
)
def test_no_secret_is_shown(env, text, secret):
    line = to_line(failure(AccessDenied(text, text), "inspect", None, redactor(env)))

    assert secret not in line
    assert "***" in line


def test_a_network_failure_after_training_is_an_unfinished_upload():
    assert isinstance(upload_error(NetworkExhausted("gone")), UploadIncomplete)
    assert isinstance(upload_error(AccessDenied("no")), AccessDenied)


def test_every_exit_code_has_one_class_and_leaves_the_shells_alone():
    codes = [cls.exit_code for cls in ERROR_CLASSES]

    assert len(set(codes)) == len(codes) == 17
    assert all(64 < code < 125 for code in codes)
    assert [error_for(code) for code in codes] == list(ERROR_CLASSES)


def test_a_termination_log_that_cannot_be_written_changes_nothing(tmp_path):
    write_termination_log(success("done", 1), tmp_path)  # a folder, as where a volume is mounted wrongly

    assert list(tmp_path.iterdir()) == []


def test_the_last_durable_step_is_told(tmp_path):
    assert json.loads(to_line(success("done", 1, 200)))["last_durable_step"] == 200
    assert json.loads(to_line(failure(BadData("bad"), "train", 1, redactor({}), 200)))["last_durable_step"] == 200


def test_an_outcome_reads_back_from_its_json(tmp_path):
    outcome = failure(BadData("bad", "mend"), "train", 1, redactor({}), 200)

    assert Outcome.from_json(to_line(outcome).encode()) == outcome


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"1", b'{"code": 0}'])
def test_what_is_no_outcome_does_not_read_as_one(data):
    with pytest.raises(ValueError):  # noqa: PT011 (pydantic's own, or json's)
        Outcome.from_json(data)


def test_the_termination_log_is_written_only_where_the_platform_made_one(tmp_path):
    write_termination_log(success("done", 1), tmp_path / "absent")
    (tmp_path / "log").touch()
    write_termination_log(success("done", 1), tmp_path / "log")

    assert not (tmp_path / "absent").exists()
    assert json.loads((tmp_path / "log").read_text())["code"] == 0


def test_the_platform_is_told_first_and_a_person_who_cannot_be_told_changes_nothing(tmp_path, monkeypatch, capsys):
    log = tmp_path / "log"
    log.touch()
    monkeypatch.setattr(outcome.write_termination_log, "__defaults__", (log,))
    told_before: list[str] = []

    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            told_before.append(log.read_text())
            raise BrokenPipeError

    monkeypatch.setattr("sys.stderr", Gone())

    assert cli.main(["preview"], {}) == 78
    assert json.loads(told_before[0])["code"] == 78
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["code"] == 78
