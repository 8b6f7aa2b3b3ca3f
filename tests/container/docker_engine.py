"""A Docker engine to test with: the machine's own, or a private one that goes when the tests go."""

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60


class NoEngine(Exception):
    """Why no container can be run on this machine."""


@dataclass(frozen=True)
class Docker:
    """A client and the engine it talks to; no host means the machine's own."""

    client: str
    host: str | None = None

    def argv(self, *args: str) -> list[str]:
        """The command line of one docker command."""
        return [self.client, *(["--host", self.host] if self.host else []), *args]

    def run(self, *args: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """One docker command, whatever its exit status."""
        env = os.environ | {"DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain"}
        return subprocess.run(self.argv(*args), capture_output=True, text=True, timeout=timeout_s, env=env, check=False)

    def must(self, *args: str, timeout_s: float = 120) -> str:
        """The output of a docker command that has to succeed."""
        done = self.run(*args, timeout_s=timeout_s)
        assert done.returncode == 0, f"docker {' '.join(args)} → {done.returncode}\n{done.stdout}{done.stderr}"[-8000:]
        return done.stdout

    def answers(self) -> bool:
        """Whether the engine is up."""
        return self.run("info").returncode == 0

    def has_image(self, name: str) -> bool:
        """Whether the engine holds the image."""
        return self.run("image", "inspect", name).returncode == 0

    def pull(self, name: str) -> bool:
        """Whether the image is there, pulled if need be."""
        return self.has_image(name) or self.run("pull", "--quiet", name, timeout_s=600).returncode == 0


def find_client() -> str:
    """The first docker on PATH that can build with BuildKit; a client without its buildx plugin cannot."""
    clients = [str(Path(folder, "docker")) for folder in os.get_exec_path()]
    for client in clients:
        if os.access(client, os.X_OK) and speaks_buildkit(client):
            return client
    raise NoEngine("no docker client that speaks BuildKit is on PATH (apt-get install docker.io, or docker-buildx)")


def speaks_buildkit(client: str) -> bool:
    """Docker 23 moved BuildKit from the client into the buildx plugin."""
    if Docker(client).run("buildx", "version").returncode == 0:
        return True
    version = Docker(client).run("version", "--format", "{{.Client.Version}}").stdout.strip()
    major = version.partition(".")[0]
    return major.isdecimal() and int(major) < 23


@contextmanager
def private_engine(client: str, cache: Path) -> Iterator[Docker]:
    """A dockerd of our own. Its images and build cache stay in `cache`, for one session at a time."""
    if os.geteuid() != 0:
        raise NoEngine("no engine that has or can pull the base image answers, and only root can start one")
    if not shutil.which("dockerd"):
        raise NoEngine("no engine that has or can pull the base image answers, and dockerd is not installed")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock, TemporaryDirectory(prefix="graft-dockerd-") as run_dir:
        fcntl.flock(lock, fcntl.LOCK_EX)
        docker = Docker(client, f"unix://{run_dir}/docker.sock")
        with running(daemon_argv(docker, cache, Path(run_dir)), cache / "dockerd.log") as daemon:
            wait_until_up(docker, daemon, cache / "dockerd.log")
            yield docker


def daemon_argv(docker: Docker, cache: Path, run_dir: Path) -> list[str]:
    """dockerd without a bridge: it leaves the machine's network and firewall alone."""
    # A killed test session must not leave a daemon behind.
    guard = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    places = [f"--host={docker.host}", f"--data-root={cache}/data", f"--exec-root={run_dir}/exec"]
    isolation = ["--bridge=none", "--iptables=false", "--ip6tables=false"]
    return [*guard, "dockerd", *places, f"--pidfile={run_dir}/pid", *isolation]


@contextmanager
def running(argv: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended on leaving, its output in `log`."""
    with log.open("w") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(STOP_TIMEOUT_S)


def wait_until_up(docker: Docker, daemon: subprocess.Popen[bytes], log: Path) -> None:
    """Return once the engine answers."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not docker.answers():
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise NoEngine(f"dockerd did not come up: {log.read_text()[-500:]}")
        time.sleep(0.2)
