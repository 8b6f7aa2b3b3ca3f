"""Checkpoints in the output: which of them can be trusted, and how one comes back to this machine.

::

    checkpoints/step-00000200/  the Trainer's files and layout.json …
                manifest.json   size and SHA-256 of each; written last
"""

import json
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job.errors import JobError, NotFound
from job.records import Layout, Plan
from job.rundir import remove_whole
from job.storage import Store, StoredFile
from job.storage.transfer import MANIFEST, sha256_of

FOLDER = "checkpoints"
_STEP = re.compile(rf"{FOLDER}/step-(\d{{8}})/(.+)")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Durable:
    """A checkpoint in the output whose manifest is this run's and whose files have the sizes that it says."""

    layout: Layout
    files: tuple[StoredFile, ...]  # with their paths in the output
    sums: dict[str, str]  # path in the output -> SHA-256

    @property
    def step(self) -> int:
        return self.layout.step


def checkpoint_folder(step: int) -> str:
    return f"{FOLDER}/step-{step:08d}"


def find_durable(store: Store, fingerprint: str, warn: Say) -> list[Durable]:
    """The trustworthy checkpoints in *store*, the newest first; each other one is passed over out loud.

    Raises:
        AccessDenied, NetworkExhausted: a manifest cannot be read, which does not mean that it is not there.
    """
    found = []
    for step, files in sorted(_by_step(store.snapshot().files).items(), reverse=True):
        try:
            found.append(_vouched(store, step, files, fingerprint))
        except (ValueError, NotFound) as reason:  # NotFound: it has been removed meanwhile
            warn(f"  the checkpoint of step {step} is passed over: {reason}")
    return found


def suitable(candidates: Iterable[Durable], plan: Plan, warn: Say) -> list[Durable]:
    """Those of *candidates* that a run under *plan* can go on from; each other one is passed over out loud."""
    found = list(candidates)
    for durable in found:
        if not durable.layout.suits(plan):
            by = f"{durable.layout.strategy} over {durable.layout.num_processes}"
            warn(f"  the checkpoint of step {durable.step} is passed over: it was made by {by}")
    return [durable for durable in found if durable.layout.suits(plan)]


def steps_in(store: Store) -> list[int]:
    """The steps of which *store* holds any file of a checkpoint."""
    return sorted(_by_step(store.snapshot().files))


def _by_step(files: Iterable[StoredFile]) -> dict[int, dict[str, StoredFile]]:
    steps: dict[int, dict[str, StoredFile]] = {}
    for file in files:
        if match := _STEP.fullmatch(file.path):
            steps.setdefault(int(match[1]), {})[match[2]] = file
    return steps


def _vouched(store: Store, step: int, files: dict[str, StoredFile], fingerprint: str) -> Durable:
    """Raises:
    ValueError: why this checkpoint is not to be trusted.
    """
    if MANIFEST not in files:
        raise ValueError(f"it has no {MANIFEST}, so its upload did not end")
    listing = _read_manifest(store.read(files[MANIFEST].path), step, fingerprint)
    for name, facts in listing["files"].items():
        size = files[name].size if name in files else None
        if size != facts["size"]:
            raise ValueError(f"{name} has {'nothing' if size is None else size} of its {facts['size']} bytes")
    paths = {name: files[name].path for name in listing["files"]}
    return Durable(
        layout=Layout.model_validate(listing["layout"]),
        files=tuple(files[name] for name in paths),
        sums={path: listing["files"][name]["sha256"] for name, path in paths.items()},
    )


def _read_manifest(data: bytes, step: int, fingerprint: str) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(data)
        theirs, described = manifest["fingerprint"], Layout.model_validate(manifest["layout"]).step
        sound = all({"size", "sha256"} <= set(facts) for facts in manifest["files"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise ValueError(f"its {MANIFEST} cannot be read")
    if theirs != fingerprint:
        raise ValueError("it is of a run with other settings")
    if described != step:
        raise ValueError(f"its {MANIFEST} is that of step {described}")
    return manifest


def fetch_newest(store: Store, candidates: Sequence[Durable], folder: Path, warn: Say, here: int) -> list[Durable]:
    """Bring the newest of *candidates* whose bytes are what its manifest says to ``checkpoint-N`` in *folder*, as the
    Trainer names them. Returns it and those that are older; nothing when there is none. Those before step *here*, which
    is in *folder* already, are returned as they are.

    Raises:
        AccessDenied, NetworkExhausted, UnsuitableHost: it cannot be fetched.
    """
    for number, durable in enumerate(candidates):
        if durable.step < here:
            return list(candidates[number:])
        scratch = folder / f".{durable.step}"
        store.fetch(durable.files, scratch)
        damaged = [path for path, expected in durable.sums.items() if sha256_of(scratch / path) != expected]
        if not damaged:
            remove_whole(checkpoint := folder / f"checkpoint-{durable.step}")
            (scratch / checkpoint_folder(durable.step)).rename(checkpoint)
            shutil.rmtree(scratch)
            return list(candidates[number:])
        warn(f"  the checkpoint of step {durable.step} is passed over: {damaged[0]} is not as its {MANIFEST} says")
        shutil.rmtree(scratch)
    return []


def remove(store: Store, steps: Iterable[int], warn: Say) -> None:
    """Remove the checkpoints of *steps*; one that cannot be removed does no harm but to the bill."""
    for step in steps:
        try:
            store.delete(checkpoint_folder(step))
        except JobError as error:
            warn(f"  the checkpoint of step {step} stays in the output: {error.cause}")
            return
