"""One input, two locks: what the image installs is what the developer tested, torch's build apart; and those of tools
that stand beside them."""

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCKS, TOOLS = ("image", "dev"), ("sbom", "store")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME = [*PYPROJECT["project"]["dependencies"], *PYPROJECT["project"]["optional-dependencies"]["deepspeed"]]
GROUPS = PYPROJECT["dependency-groups"]
DEV_GROUP = [*(text for text in GROUPS["dev"] if isinstance(text, str)), *GROUPS["store"]]
# torch and what its CUDA build brings along; nvidia-ml-py reads the driver and belongs to both worlds.
CUDA = re.compile(r"torch|triton|cuda-.+|nvidia-(?!ml-py$).+")


@dataclass(frozen=True)
class Pin:
    """One locked package."""

    version: str
    marker: str
    hashes: frozenset[str]


def entries(lock: str) -> list[str]:
    """The lock's requirements, each on one line."""
    text = (ROOT / f"locks/{lock}.txt").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def pins(lock: str) -> dict[str, Pin]:
    """What a lock pins, by package name."""
    found: dict[str, Pin] = {}
    for entry in entries(lock):
        requirement = Requirement(entry.partition("--hash")[0])
        (specifier,) = requirement.specifier
        assert specifier.operator == "=="
        hashes = frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})(?=\s|$)", entry))
        found[canonicalize_name(requirement.name)] = Pin(specifier.version, str(requirement.marker or ""), hashes)
    return found


def torch_pin() -> str:
    """The version that is installed by name beside the developer's lock."""
    (requirement,) = (Requirement(entry) for entry in entries("torch"))
    (specifier,) = requirement.specifier
    assert (requirement.name, specifier.operator) == ("torch", "==")
    return specifier.version


def unsatisfied(wanted: Iterable[str], versions: dict[str, str]) -> list[str]:
    """The requirements that no locked version meets."""
    requirements = [Requirement(text) for text in wanted]
    names = {text: canonicalize_name(text.name) for text in requirements}
    return [str(text) for text, name in names.items() if versions.get(name, "0") not in text.specifier]


@pytest.mark.parametrize("lock", [*LOCKS, *TOOLS])
def test_every_package_is_pinned_once_and_hashed(lock: str) -> None:
    locked = pins(lock)
    assert len(locked) == len(entries(lock))
    assert [name for name, pin in locked.items() if not pin.hashes] == []


@pytest.mark.parametrize("lock", [*LOCKS, *TOOLS, "torch"])
def test_a_lock_names_no_host_and_no_folder(lock: str) -> None:
    entry = re.compile(r"[a-z0-9-]+==[\w.]+( ; [^/:@]+?)?(\s+--hash=sha256:[0-9a-f]{64})*\s*")
    assert [line for line in entries(lock) if not entry.fullmatch(line)] == []
    assert "://" not in (ROOT / f"locks/{lock}.txt").read_text()


def test_the_developer_tests_the_versions_and_hashes_of_the_image() -> None:
    image, dev = pins("image"), pins("dev")
    wanted = {name: pin for name, pin in image.items() if not CUDA.fullmatch(name)}
    # What only some systems need in the image, a tool of the developer's may need on all.
    assert {name: pin for name, pin in wanted.items() if dev.get(name) not in (pin, replace(pin, marker=""))} == {}


def test_the_developer_locks_no_part_of_torchs_cuda_build() -> None:
    assert [name for name in pins("dev") if CUDA.fullmatch(name)] == []


def test_torch_is_one_version_wherever_it_is_named() -> None:
    assert pins("image")["torch"].version == torch_pin()
    for path in [ROOT / "Dockerfile", *ROOT.glob("Makefile"), *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        named = set(re.findall(r"\btorch==([\w.]*\w)", path.read_text()))
        assert named <= {torch_pin()}, path


def test_the_image_lock_meets_every_floor_and_ceiling() -> None:
    assert unsatisfied(RUNTIME, {name: pin.version for name, pin in pins("image").items()}) == []


def test_the_developer_lock_meets_every_floor_and_ceiling() -> None:
    versions = {name: pin.version for name, pin in pins("dev").items()} | {"torch": torch_pin()}
    assert unsatisfied([*RUNTIME, *DEV_GROUP], versions) == []


@pytest.mark.parametrize("lock", LOCKS)
def test_the_crt_that_computes_s3_checksums_is_locked(lock: str) -> None:
    # boto3[crt]: an extra leaves no trace in the lock but its package.
    assert "awscrt" in pins(lock)


# The first versions without a hole that a file from outside can be made to reach.
SECURITY_FLOORS = {
    "torch": "2.10",  # CVE-2026-24747: torch.load(weights_only=True) could be made to run code
    "transformers": "5.3",  # CVE-2026-5241
    "jinja2": "3.1.6",  # ways out of the sandbox in which chat templates run
}


def installs() -> dict[str, dict[str, str]]:
    """The versions of each lock, by package; torch's own lock goes with the developer's."""
    found = {lock: {name: pin.version for name, pin in pins(lock).items()} for lock in (*LOCKS, *TOOLS)}
    found["dev"]["torch"] = torch_pin()
    return found


def test_every_lock_is_looked_at_for_security_floors() -> None:
    assert {path.stem for path in ROOT.glob("locks/*.txt")} == {*LOCKS, *TOOLS, "torch"}


@pytest.mark.parametrize("package", SECURITY_FLOORS)
def test_no_lock_is_below_a_security_floor(package: str) -> None:
    floor = Version(SECURITY_FLOORS[package])

    locked = {lock: Version(versions[package]) for lock, versions in installs().items() if package in versions}
    assert {"image", "dev"} <= locked.keys()
    assert [lock for lock, version in locked.items() if version < floor] == []


@pytest.mark.parametrize("package", SECURITY_FLOORS)
def test_no_later_lock_can_fall_below_a_security_floor(package: str) -> None:
    (wanted,) = (Requirement(text) for text in RUNTIME if canonicalize_name(Requirement(text).name) == package)
    (lowest,) = (Version(one.version) for one in wanted.specifier if one.operator == ">=")

    assert lowest >= Version(SECURITY_FLOORS[package])
