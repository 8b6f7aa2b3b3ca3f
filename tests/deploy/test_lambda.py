"""A machine of one's own: what install.sh does on it, and when its service runs the job again."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from job.errors import ERROR_CLASSES
from scripts.deploy_files import FILES
from tests.tiny import ROOT

FOLDER = ROOT / "deploy" / "lambda"
UNIT = (FOLDER / "graft.service").read_text()


@pytest.fixture
def machine(fake, env, tmp_path):
    """A machine with Docker, a GPU and the toolkit."""
    for name in ("docker", "nvidia-smi", "nvidia-ctk", "systemctl", "curl", "gpg", "apt-get"):
        fake(name)
    (tmp_path / "job.env").write_text("JOB_MODEL=org/base\nHF_TOKEN=secret\n")
    for folder in ("etc/apt/sources.list.d", "usr/share/keyrings"):
        (tmp_path / "root" / folder).mkdir(parents=True)
    return env | {"ROOT": str(tmp_path / "root")}


def install(machine: dict[str, str], tmp_path: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [FOLDER / "install.sh", *options, "graft:1", tmp_path / "job.env"]
    return subprocess.run(command, env=machine, capture_output=True, text=True)


def test_the_job_is_checked_and_then_started_as_a_service(machine, calls, tmp_path):
    ended = install(machine, tmp_path)

    assert ended.returncode == 0, ended.stderr
    env_file = tmp_path / "root/etc/graft/job.env"
    assert calls() == [
        "nvidia-smi ",
        f"docker run --rm --gpus all --env-file {env_file} graft:1 check",
        "systemctl daemon-reload",
        "systemctl reset-failed graft.service",
        "systemctl start --no-block graft.service",
    ]
    assert (tmp_path / "root/etc/systemd/system/graft.service").read_text() == UNIT
    assert (tmp_path / "root/etc/graft/image").read_text() == "IMAGE=graft:1\n"


def test_credentials_are_readable_by_root_alone(machine, tmp_path):
    install(machine, tmp_path)

    folder = tmp_path / "root/etc/graft"
    assert [oct(path.stat().st_mode & 0o777) for path in (folder, folder / "job.env")] == ["0o700", "0o600"]


def test_a_job_that_cannot_succeed_is_not_started_and_its_exit_code_stays(machine, fake, calls, tmp_path):
    fake("docker", "exit 78")

    assert install(machine, tmp_path).returncode == 78
    assert [call for call in calls() if call.startswith("systemctl")] == []


def test_the_toolkit_is_installed_where_it_is_missing(machine, fake, programs, calls, tmp_path):
    (programs / "nvidia-ctk").unlink()
    (programs / "apt-get").write_text(
        (programs / "apt-get").read_text() + f"cp {programs}/docker {programs}/nvidia-ctk\n"
    )

    ended = install(machine, tmp_path)

    assert ended.returncode == 0, ended.stderr
    assert "apt-get install -y -qq nvidia-container-toolkit" in calls()
    assert "systemctl restart docker" in calls()
    assert any(call.endswith("runtime configure --runtime=docker") for call in calls())


@pytest.mark.parametrize(
    ("missing", "says"),
    [("nvidia-smi", "install the driver"), ("docker", "install docker.io"), ("job.env", "does not exist")],
)
def test_what_is_missing_is_named_before_anything_is_changed(machine, programs, tmp_path, missing, says):
    if missing == "job.env":
        (tmp_path / missing).unlink()
    else:
        (programs / missing).unlink()

    ended = install(machine, tmp_path)

    assert ended.returncode == 1
    assert says in ended.stderr
    assert not (tmp_path / "root/etc/graft").exists()


def test_the_machine_is_switched_off_only_where_it_is_asked_for(machine, tmp_path):
    dropped = tmp_path / "root/etc/systemd/system/graft.service.d/shutdown.conf"

    install(machine, tmp_path, "--shutdown")
    assert "SuccessAction=poweroff" in dropped.read_text()
    install(machine, tmp_path)
    assert not dropped.exists()


def setting(name: str) -> str:
    (line,) = [line for line in UNIT.splitlines() if line.startswith(f"{name}=")]
    return line.partition("=")[2]


def test_the_service_runs_again_what_may_succeed_on_this_machine_and_nothing_else():
    prevented = set(map(int, setting("RestartPreventExitStatus").split()))

    again = {one.exit_code for one in ERROR_CLASSES if one.exit_code not in prevented}
    assert again == {one.exit_code for one in ERROR_CLASSES if one.retry in ("counted", "uncounted")}
    assert setting("Restart") == "on-failure"
    assert int(setting("StartLimitBurst")) <= 5


def test_the_job_has_its_grace_before_docker_and_then_systemd_kill_it():
    assert "--stop-timeout 30 " in UNIT
    assert int(setting("TimeoutStopSec")) > 30


@pytest.mark.parametrize("word", ["--gpus all", "--shm-size 1g", "--read-only", "--cap-drop ALL", "no-new-privileges"])
def test_the_container_is_locked_down_and_has_what_training_needs(word):
    assert word in UNIT


@pytest.mark.parametrize("name", FILES)
def test_what_is_generated_equals_its_source(name):
    assert (ROOT / "deploy" / name).read_text() == FILES[name](), "run make generate"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong_with_the_service(tmp_path):
    unit = UNIT.replace("/usr/bin/docker", "/bin/true").replace("Requires=docker.service\n", "")
    (tmp_path / "graft.service").write_text(unit)
    shutil.copytree(FOLDER, tmp_path / "graft.service.d", ignore=shutil.ignore_patterns("*.sh", "*.service"))

    ended = subprocess.run(["systemd-analyze", "verify", tmp_path / "graft.service"], capture_output=True, text=True)

    assert (ended.returncode, [line for line in ended.stderr.splitlines() if "graft" in line]) == (0, [])


def test_shellcheck_finds_nothing_wrong_with_the_scripts():
    scripts = [FOLDER / "install.sh", ROOT / "deploy/runpod/start.sh"]

    assert (
        subprocess.run([Path(sys.executable).with_name("shellcheck"), *scripts], capture_output=True, text=True).stdout
        == ""
    )
