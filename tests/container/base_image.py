"""The Dockerfile's base image where no image registry can be reached: Debian's own Python, under the same name.

What this machine needs to install Python packages (pip's settings, its folder of wheels, its CA certificates) goes into
that stand-in, so that the Dockerfile under test stays as it is.
"""

import ast
import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.container.docker_engine import Docker, NoEngine, find_client, private_engine

ROOT = Path(__file__).parents[2]
# What python:3.11-slim-bookworm offers of Python: interpreter, venv, pip and the headers that Triton compiles against.
PACKAGES = "python3,python3-venv,python3-pip,libpython3-dev,ca-certificates"
DEBIAN = "graft-test-debian:bookworm"
CA_BUNDLE = "etc/ssl/certs/ca-certificates.crt"
# pip's settings that say where packages come from; everything else about this machine's pip is its own affair.
KEPT_SETTINGS = ("index-url", "extra-index-url", "find-links", "trusted-host", "proxy", "default-timeout", "timeout")


def base_name() -> str:
    """The one image that the Dockerfile starts from."""
    (name,) = set(re.findall(r"^FROM (\S+:\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    return str(name)


@contextmanager
def engine_with_base(cache: Path) -> Iterator[Docker]:
    """An engine that holds the base image. A stand-in is never put into the machine's own engine."""
    client = find_client()
    own = Docker(client)
    if own.answers() and own.pull(base_name()):
        yield own
        return
    with private_engine(client, cache) as docker:
        if docker.has_image(DEBIAN) or not docker.pull(base_name()):
            make_stand_in(docker)
        yield docker
        docker.run("image", "prune", "--force")
        docker.run("builder", "prune", "--force", "--filter", "until=168h")


def make_stand_in(docker: Docker) -> None:
    """Debian (once) plus this machine's way to Python packages (built anew when it changes)."""
    if not docker.has_image(DEBIAN):
        import_debian(docker)
    with TemporaryDirectory() as context:
        write_pip_world(Path(context, "root"), pip_settings())
        Path(context, "Dockerfile").write_text(f"FROM {DEBIAN}\nCOPY root/ /\n")
        docker.must("build", "--tag", base_name(), context)


def import_debian(docker: Docker) -> None:
    """Debootstrap a minimal Debian with Python and import it."""
    if not shutil.which("debootstrap"):
        raise NoEngine(f"{base_name()} cannot be pulled, and debootstrap is not installed to make a stand-in")
    with TemporaryDirectory() as scratch:
        rootfs, tarball = f"{scratch}/rootfs", f"{scratch}/rootfs.tar"
        argv = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", rootfs]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NoEngine(f"{base_name()} cannot be pulled, and debootstrap failed: {done.stdout[-500:]}")
        subprocess.run(["tar", "--create", "--file", tarball, "--directory", rootfs, "."], check=True)
        docker.must("import", tarball, DEBIAN)


def pip_settings() -> dict[str, str]:
    """This machine's pip settings by option name; the environment wins over the files."""
    argv = [sys.executable, "-m", "pip", "config", "list"]
    lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    pairs = [line.split("=", 1) for line in sorted(lines, key=lambda line: line.startswith(":env:"))]
    return {name.rpartition(".")[2]: str(ast.literal_eval(value)) for name, value in pairs}


def write_pip_world(root: Path, settings: Mapping[str, str]) -> None:
    """Lay out pip.conf, the wheels it finds and the CA certificates as files of the base image."""
    (root / CA_BUNDLE).parent.mkdir(parents=True)
    kept = {name: settings[name] for name in KEPT_SETTINGS if name in settings}
    links = kept.get("find-links", "").split()
    for number, folder in enumerate(links):
        if Path(folder).is_dir():
            links[number] = f"/opt/graft-wheels/{number}"
            shutil.copytree(folder, root / links[number].lstrip("/"))
    # A file index stays behind: it may be large, and the hashes in the lock are those of the public one.
    indexes = [url for url in kept.get("extra-index-url", "").split() if not url.startswith("file:")]
    kept |= {"find-links": " ".join(links), "extra-index-url": " ".join(indexes)}
    if bundle := ca_bundle(settings):
        shutil.copy(bundle, root / CA_BUNDLE)
        kept["cert"] = f"/{CA_BUNDLE}"
    (root / "etc/pip.conf").write_text("\n".join(["[global]", *(f"{k} = {v}" for k, v in kept.items() if v)]) + "\n")


def ca_bundle(settings: Mapping[str, str]) -> str | None:
    """The certificates that this machine trusts."""
    named = settings.get("cert") or os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    return named if named and Path(named).is_file() else None
