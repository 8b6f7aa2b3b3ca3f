"""The image as a platform runs it: any numeric user, a read-only root, no capabilities, one writable place."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.container.base_image import ROOT
from tests.container.docker_engine import Docker

pytestmark = [pytest.mark.slow, pytest.mark.container]

# A uid that neither the image nor this machine knows, under Kubernetes' restricted profile.
LOCKED_DOWN = (
    "--user=12345:12345",
    "--read-only",
    "--tmpfs=/tmp",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--network=none",
)
PYTHON = "/opt/venv/bin/python"
LIST_PACKAGES = """
from importlib.metadata import distributions
print(*(f"{package.name}=={package.version}" for package in distributions()))
"""
DEMO_TIMEOUT_S = 600


def shell(docker: Docker, image: str, script: str) -> subprocess.CompletedProcess[str]:
    """A shell script in a locked-down container."""
    return docker.run("run", "--rm", *LOCKED_DOWN, "--entrypoint=sh", image, "-euc", script)


def test_the_image_runs_as_a_numeric_user_that_is_not_root(docker: Docker, image: str) -> None:
    user = docker.must("image", "inspect", "--format", "{{.Config.User}}", image).strip()
    uid, _, gid = user.partition(":")
    assert int(uid) > 0
    assert int(gid) > 0


def test_the_entrypoint_is_in_exec_form_so_that_signals_reach_the_job(docker: Docker, image: str) -> None:
    entrypoint = json.loads(docker.must("image", "inspect", "--format", "{{json .Config.Entrypoint}}", image))
    assert entrypoint == [PYTHON, "/app/entrypoint.py"]


def test_the_labels_name_the_version_and_where_it_comes_from(docker: Docker, image: str) -> None:
    labels = json.loads(docker.must("image", "inspect", "--format", "{{json .Config.Labels}}", image))
    named = {name: labels[f"org.opencontainers.image.{name}"] for name in ("version", "revision", "source", "licenses")}
    assert named == {"version": "1.2.3", "revision": "abc", "source": "https://example.org/x", "licenses": "Apache-2.0"}


def test_the_image_lists_what_is_in_it_and_under_which_licences(docker: Docker, image: str) -> None:
    installed = set(docker.must("run", "--rm", f"--entrypoint={PYTHON}", image, "-c", LIST_PACKAGES).split())
    listed = json.loads(docker.must("run", "--rm", "--entrypoint=cat", image, "/usr/share/graft/sbom.cdx.json"))
    licences = docker.must("run", "--rm", "--entrypoint=cat", image, "/usr/share/graft/licences.txt").splitlines()

    assert listed["bomFormat"] == "CycloneDX"
    assert {f"{part['name']}=={part['version']}" for part in listed["components"]} == installed
    assert {line.partition(": ")[0].replace(" ", "==") for line in licences} == installed
    assert f"peft {version('peft')}: Apache Software License" in licences


def test_a_change_of_the_source_is_a_layer_of_megabytes(docker: Docker, image: str) -> None:
    """Layers from the source's on are pulled anew; what is below stays."""
    history = docker.must("history", "--no-trunc", "--human=false", "--format={{.Size}} {{.CreatedBy}}", image)
    newest_first = [line.partition(" ")[::2] for line in history.splitlines()]
    (source,) = [number for number, (_, made_by) in enumerate(newest_first) if "/app /app" in made_by]

    assert sum(int(size) for size, _ in newest_first[: source + 1]) < 5e6
    assert sum(int(size) for size, _ in newest_first[source + 1 :]) > 1e9


def test_torch_is_a_layer_of_its_own(docker: Docker, image: str) -> None:
    """And so are CUDA's libraries, which the developer's lock does not have."""
    history = docker.must("history", "--no-trunc", "--human=false", "--format={{.Size}} {{.CreatedBy}}", image)
    sizes = {made_by: int(size) for size, made_by in (line.split(" ", 1) for line in history.splitlines())}
    (torch,) = [size for made_by, size in sizes.items() if "/layers/torch/" in made_by]
    (rest,) = [size for made_by, size in sizes.items() if "/opt/venv /opt/venv" in made_by]

    assert torch > 3e8
    assert rest < 1.5e9


def test_the_image_holds_the_job_and_nothing_else_of_the_checkout(docker: Docker, image: str) -> None:
    listing = docker.must("run", "--rm", "--entrypoint=ls", image, "-A", "/app").split()
    assert set(listing) == {"entrypoint.py", "job", "accelerate_configs", "examples", "__pycache__"}
    assert docker.must("run", "--rm", "--entrypoint=find", image, "/app", "-name", ".*") == ""


def test_no_user_can_write_the_source_and_any_user_can_write_the_work_directory(docker: Docker, image: str) -> None:
    script = "find /app /opt/venv -writable ! -type l; mkdir -p $HF_HOME $TRITON_CACHE_DIR; touch $JOB_WORK_DIR/x"
    # A writable root, so that modes decide and not the mount.
    options = ("run", "--rm", "--user=12345", "--entrypoint=sh", image)
    assert docker.must(*options, "-euc", script) == ""


def test_a_read_only_container_finds_its_bytecode_compiled(docker: Docker, image: str) -> None:
    script = """
from importlib.util import cache_from_source, find_spec
from pathlib import Path
roots = [Path("/app"), *(Path(find_spec(name).origin).parent for name in ("transformers", "peft", "trl"))]
print(*(path for root in roots for path in root.rglob("*.py") if not Path(cache_from_source(path)).exists()))
"""
    assert docker.must("run", "--rm", f"--entrypoint={PYTHON}", image, "-c", script).strip() == ""


def test_an_unknown_user_can_compile_what_triton_compiles(docker: Docker, image: str) -> None:
    script = f"""
        include=$({PYTHON} -c 'import sysconfig; print(sysconfig.get_path("include"))')
        echo '#include <Python.h>' | gcc -x c -shared -fPIC -I"$include" -o /workspace/launcher.so -
        {PYTHON} -c 'import ctypes, getpass; ctypes.CDLL("/workspace/launcher.so"); getpass.getuser()'
    """
    done = shell(docker, image, script)
    assert done.returncode == 0, done.stderr


def test_a_run_without_settings_is_refused_with_a_reason(docker: Docker, image: str) -> None:
    done = docker.run("run", "--rm", "--network=none", image)
    assert done.returncode == 78, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["code"] == 78
    for name in ("JOB_MODEL", "JOB_DATASET_URI", "JOB_OUTPUT_URI"):
        assert name in done.stdout + done.stderr


@dataclass(frozen=True)
class Demo:
    """The demo's containers: they share /workspace, and leave their runs in a folder of this machine."""

    docker: Docker
    image: str
    mounts: tuple[str, str]
    output: Path

    def run(self, *arguments: str) -> str:
        """The stdout of a locked-down container that has to succeed, or the name of one in the background."""
        # OpenMP threads that wait for each other on a busy machine make a tiny model ten times slower.
        options = (*LOCKED_DOWN, *self.mounts, "--env=OMP_NUM_THREADS=1")
        return self.docker.must("run", *options, *arguments, timeout_s=DEMO_TIMEOUT_S)

    def script(self, name: str, *arguments: str) -> str:
        """One of the demo's own scripts."""
        return self.run("--rm", "--entrypoint", PYTHON, self.image, f"/app/examples/demo/{name}", *arguments)

    def job(self, *options: str, **settings: str) -> str:
        """The image as it is, with demo.env; its paths are those of a checkout, so they are set anew."""
        paths = {
            "JOB_MODEL": "/workspace/base",
            "JOB_DATASET_URI": "/workspace/data/train.jsonl",
            "JOB_WORK_DIR": "/workspace/job",
        }
        env = [f"--env={name}={value}" for name, value in {**paths, **settings}.items()]
        return self.run(*options, f"--env-file={ROOT}/examples/demo/demo.env", *env, self.image)


@pytest.fixture(scope="module")
def demo(docker: Docker, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """The demo's data and base model in a volume, made in the container."""
    output = tmp_path_factory.mktemp("output")
    # The container's unknown user has to be let in.
    output.chmod(0o777)
    work = docker.must("volume", "create").strip()
    demo = Demo(docker, image, (f"--volume={work}:/workspace", f"--volume={output}:/output"), output)
    demo.script("make_data.py", "/workspace/data")
    demo.script("make_base.py", "/workspace/base")
    yield demo
    docker.run("volume", "rm", work)


def test_the_demo_trains_publishes_and_teaches(demo: Demo) -> None:
    stdout = demo.job("--rm", JOB_OUTPUT_URI="/output/trained")
    assert json.loads(stdout.splitlines()[-1])["code"] == 0
    assert json.loads((demo.output / "trained/manifest.json").read_text())
    # Exits 1 unless the base guesses and the tuned model knows.
    demo.script("score.py", "/workspace/base", "/output/trained/adapter", "/workspace/data/test.jsonl")


def test_docker_stop_leaves_a_durable_checkpoint_from_which_another_container_finishes(
    docker: Docker, demo: Demo
) -> None:
    settings = {"JOB_OUTPUT_URI": "/output/stopped", "JOB_NUM_TRAIN_EPOCHS": "12"}
    container = demo.job("--detach", **settings).strip()
    try:
        wait_for_log(docker, container, re.compile(r"step \d+/\d+"))
        docker.must("stop", "--time=60", container)
        logs = docker.run("logs", container).stdout
        assert docker.must("wait", container).strip() == "75"
        outcome = json.loads(logs.splitlines()[-1])
        assert outcome["code"] == 75
        assert list(demo.output.glob(f"stopped/checkpoints/step-*{outcome['last_durable_step']}/manifest.json"))
    finally:
        docker.run("rm", "--force", container)

    finished = demo.job("--rm", **settings)

    assert json.loads(finished.splitlines()[-1])["code"] == 0
    attempts = json.loads((demo.output / "stopped/metrics.json").read_text())["attempts"]
    assert attempts["resumed_at_step"] == outcome["last_durable_step"]


def wait_for_log(docker: Docker, container: str, wanted: re.Pattern[str]) -> None:
    """Return once a running container has written what is wanted."""
    deadline = time.monotonic() + DEMO_TIMEOUT_S
    while not wanted.search((logs := docker.run("logs", container)).stderr):
        running = docker.must("inspect", "--format={{.State.Running}}", container).strip()
        assert running == "true", logs.stdout + logs.stderr
        assert time.monotonic() < deadline, logs.stderr
        time.sleep(0.5)
