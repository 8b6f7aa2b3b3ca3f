"""What a RunPod pod runs: the job with its exit code, and the end of the pod unless running it again may help."""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from job.errors import ERROR_CLASSES
from tests.deploy.test_lambda import ROOT

TEMPLATE = json.loads((ROOT / "deploy/runpod/template.json").read_text())
AGAIN = [one.exit_code for one in ERROR_CLASSES if one.retry in ("counted", "uncounted")]
OVER = [0, *(one.exit_code for one in ERROR_CLASSES if one.exit_code not in AGAIN)]


@pytest.fixture
def api() -> Iterator[HTTPServer]:
    """RunPod's API, which writes down what it is asked."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.server.asked.append((self.command, self.path, self.headers["Authorization"]))  # type: ignore[attr-defined]
            self.send_response(200)
            self.end_headers()

        do_POST = do_DELETE = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def pod(env, api, tmp_path):
    """Starts the template's own command, with a job that does *what*."""

    def start(what: str, **more: str) -> "subprocess.Popen[str]":
        (job := tmp_path / "job.py").write_text(what)
        settings = env | {
            "GRAFT_ENTRYPOINT": str(job), "RUNPOD_API": f"http://127.0.0.1:{api.server_port}", "RUNPOD_POD_ID": "pod7",
            "RUNPOD_API_KEY": "pod-scoped-key", "LINGER_S": "0",
        }  # fmt: skip
        command = [*TEMPLATE["dockerEntrypoint"], *TEMPLATE["dockerStartCmd"]]
        return subprocess.Popen(command, env=settings | more, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE)

    return start


@pytest.mark.parametrize("code", AGAIN)
def test_a_job_that_may_succeed_when_run_again_leaves_the_pod_to_run_it_again(pod, api, code):
    process = pod(f"raise SystemExit({code})")

    assert (process.wait(30), api.asked) == (code, [])


@pytest.mark.parametrize("code", OVER)
def test_a_job_that_is_over_stops_its_pod_and_keeps_its_exit_code(pod, api, code):
    process = pod(f"raise SystemExit({code})")

    assert process.wait(30) == code
    assert api.asked == [("POST", "/pods/pod7/stop", "Bearer pod-scoped-key")]


def test_a_pod_can_be_removed_instead(pod, api):
    assert pod("", AT_END="terminate").wait(30) == 0
    assert [asked[:2] for asked in api.asked] == [("DELETE", "/pods/pod7")]


def test_an_api_that_does_not_answer_changes_no_exit_code_and_is_told(pod):
    process = pod("raise SystemExit(78)", RUNPOD_API="http://127.0.0.1:9")
    _, err = process.communicate(timeout=30)

    assert process.returncode == 78
    assert "POST pods/pod7/stop: status 1" in err
    assert "pod-scoped-key" not in err


def test_a_signal_reaches_the_job_which_ends_in_its_own_time(pod, api):
    job = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), sys.exit(75)))\n"
        "print('ready', flush=True)\n"
        "time.sleep(30)\n"
    )
    process = pod(job)
    assert process.stdout.readline() == "ready\n"

    began = time.monotonic()
    process.send_signal(signal.SIGTERM)

    assert (process.wait(10), api.asked) == (75, [])
    assert time.monotonic() - began > 0.4


def test_credentials_in_the_template_are_references_to_runpods_secrets():
    secret = {name: value for name, value in TEMPLATE["env"].items() if name.endswith(("TOKEN", "KEY", "KEY_ID"))}

    assert len(secret) == 3
    assert [name for name, value in secret.items() if not value.startswith("{{ RUNPOD_SECRET_")] == []
    assert (TEMPLATE["isPublic"], TEMPLATE["ports"], TEMPLATE["volumeMountPath"]) == (False, [], "/workspace")
