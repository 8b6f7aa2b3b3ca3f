"""One output URI: the result, and the run's own records beside it (on the Hub: on a branch of their own)."""

import json
import re
from collections.abc import Collection
from typing import Any

from job.adapters import KINDS
from job.errors import AccessDenied, NotFound, OutputTaken
from job.records import Decided
from job.spec import JobSpec
from job.storage import Snapshot, Store, StoredFile, open_store
from job.storage.transfer import MANIFEST
from job.uri import HubUri, parse_uri

RUN = "run.json"
PARTIAL, REJECTED = "partial", "rejected"  # where an adapter lies that is no result
STATE_BRANCH = "graft-run"
_CHECKPOINT = re.compile(r"checkpoints/[^/]+/manifest\.json")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHOWN = 60  # characters of a setting in a message
_OURS = ("adapter/", "model/", "metrics.json", "dataset_report.json", "report.html", MANIFEST)


class Output:
    """The place that ``JOB_OUTPUT_URI`` names."""

    def __init__(self, text: str) -> None:
        uri = parse_uri(text, "output")
        self.text = text
        self.on_hub = isinstance(uri, HubUri)
        self.result: Store = open_store(uri)
        self.state: Store = open_store(uri, branch=STATE_BRANCH) if self.on_hub else self.result
        self.conditional = True  # until probe_write finds that the store knows no create-if-absent
        self._repo_id = uri.repo_id if isinstance(uri, HubUri) else ""

    def prefix(self, spec: JobSpec) -> str:
        """Of the paths of the result's weights; at the root of a repository, so that ``from_pretrained("org/name")``
        finds them."""
        return "" if self.on_hub else f"{KINDS[spec.adapter].folder}/"

    def place(self, spec: JobSpec, folder: str = "") -> tuple[str, str]:
        """What loads weights from *folder* of this output, or without one the result's: a repository id with its
        subfolder, or their folder and nothing."""
        if self.on_hub:
            return self._repo_id, folder
        return f"{self.text.rstrip('/')}/{folder or KINDS[spec.adapter].folder}", ""

    def manifest(self, spec: JobSpec) -> dict[str, Any] | None:
        """The manifest of this run's finished result; None when there is no result yet.

        Raises:
            OutputTaken: the place holds another run's result, and the message names the settings that differ; or files
                that no run made.
        """
        files = {file.path: file for file in self._snapshot(self.result).files}
        if MANIFEST not in files:
            self._refuse_foreign(files)
            return None
        manifest = _manifest(self.result.read(MANIFEST))
        if manifest is None:
            raise OutputTaken(f"JOB_OUTPUT_URI={self.text} holds a {MANIFEST} of something else.", _ELSEWHERE)
        if manifest["fingerprint"] != spec.fingerprint:
            raise self._taken("the result", spec, _ELSEWHERE)
        for path, facts in manifest["files"].items():
            if path not in files or not self._is_as_told(files[path], facts):
                raise OutputTaken(f"JOB_OUTPUT_URI={self.text}: {path} is not as {MANIFEST} says.", _ELSEWHERE)
        return manifest

    def rejected(self, spec: JobSpec) -> str | None:
        """Why this run's adapter was rejected and set apart; None: it was not, or not by what now judges it."""
        try:
            manifest = _manifest(self.result.read(f"{REJECTED}/{MANIFEST}"))
        except NotFound:
            return None
        told = {"fingerprint": spec.fingerprint, "judged_by": spec.judged_by}
        if not manifest or any(manifest.get(name) != value for name, value in told.items()):
            return None
        return str(manifest.get("cause", ""))

    def look(self, spec: JobSpec) -> dict[str, Any] | None:
        """As `manifest`, for a place that nobody claims before it is written to.

        Raises:
            OutputTaken: the place holds another run's result or checkpoint, or files that no run made.
        """
        if manifest := self.manifest(spec):
            return manifest
        self.refuse_other_run(spec, self.state_paths())
        return None

    def probe_write(self) -> None:
        """Raises:
        AccessDenied: the output cannot be written.
        """
        try:
            self.conditional = self.state.probe_write()
        except NotFound as error:
            raise AccessDenied(f"JOB_OUTPUT_URI={self.text}: {error.cause}", error.fix) from error

    def mark(self, spec: JobSpec, decided: Decided | None = None) -> None:
        """Say whose place this is, before the first file of the result is there, and what is settled for all attempts:
        now, or before."""
        run = {"fingerprint": spec.fingerprint, "spec": spec.model_dump(mode="json")}
        if decided := decided or self.decided(spec):
            run["decided"] = decided.model_dump(mode="json")
        self.state.put(RUN, _json(run))

    def decided(self, spec: JobSpec) -> Decided | None:
        """What an earlier attempt at *spec* has settled; None when there was none, or one at another spec."""
        try:
            run = self._run()
            return Decided.model_validate(run["decided"]) if run["fingerprint"] == spec.fingerprint else None
        except (ValueError, KeyError):  # no run, or another version's
            return None

    def state_paths(self) -> set[str]:
        """The run's own records and checkpoints, and where they lie beside the result, that too."""
        return {file.path for file in self._snapshot(self.state).files}

    def refuse_other_run(self, spec: JobSpec, paths: set[str]) -> None:
        """Keep the work of a run with other settings: until it has a durable checkpoint among *paths* it has none.

        Raises:
            OutputTaken: it has one; the message names the settings that differ.
        """
        for path in sorted(filter(_CHECKPOINT.fullmatch, paths)):
            manifest = _manifest(self.state.read(path))
            if manifest and manifest["fingerprint"] != spec.fingerprint:
                fix = "Choose another JOB_OUTPUT_URI, or set them as they were to go on with that run."
                raise self._taken("a checkpoint", spec, fix)

    def _taken(self, what: str, spec: JobSpec, fix: str) -> OutputTaken:
        differ = self._differences(spec) or "settings of another version"
        return OutputTaken(f"JOB_OUTPUT_URI={self.text} holds {what} of a run with other settings: {differ}.", fix)

    def _differences(self, spec: JobSpec) -> str:
        before = self._run().get("spec")
        if not isinstance(before, dict):
            return ""
        return ", ".join(
            f"JOB_{name.upper()} was {_shown(before.get(name))} and is {_shown(value)}"
            for name, value in spec.decisive.items()
            if before.get(name) != value
        )

    def _run(self) -> dict[str, Any]:
        """``run.json``; empty when there is none that can be read."""
        try:
            run = json.loads(self.state.read(RUN))
        except (NotFound, ValueError):
            return {}
        return run if isinstance(run, dict) else {}

    def _is_as_told(self, file: StoredFile, facts: dict[str, Any]) -> bool:
        """Whether *file* is what a manifest says, as far as the store knows without reading it: the Hub commits files
        and manifest before it is asked whether it got them whole, and of its large files it knows the SHA-256."""
        knows = self.on_hub and _SHA256.fullmatch(file.identity) is not None
        return file.size == facts["size"] and (not knows or file.identity == facts["sha256"])

    def _refuse_foreign(self, files: Collection[str]) -> None:
        ours = self.on_hub and RUN in {file.path for file in self._snapshot(self.state).files}
        if RUN in files or ours:
            return
        foreign = [path for path in files if path != ".gitattributes"] if self.on_hub else _clashes(files)
        if foreign:
            raise OutputTaken(
                f"JOB_OUTPUT_URI={self.text} holds {foreign[0]}, which no run of this job made.", _ELSEWHERE
            )

    def _snapshot(self, store: Store) -> Snapshot:
        try:
            return store.snapshot()
        except NotFound:
            return Snapshot(files=())


_ELSEWHERE = "Choose another JOB_OUTPUT_URI."


def _clashes(files: Collection[str]) -> list[str]:
    return [path for path in files if path.startswith(_OURS)]


def _manifest(data: bytes) -> dict[str, Any] | None:
    try:
        manifest = json.loads(data)
        return manifest if isinstance(manifest["files"], dict) and "fingerprint" in manifest else None
    except (ValueError, KeyError, TypeError):
        return None


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode()
