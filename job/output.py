"""One output URI: the result, and the run's own records beside it (on the Hub: on a branch of their own)."""

import json
from dataclasses import dataclass
from typing import Any

from job.errors import AccessDenied, NotFound, OutputTaken
from job.records import Decided, Outcome
from job.spec import JobSpec
from job.storage import Snapshot, Store, open_store
from job.uri import HubUri, parse_uri

MANIFEST = "manifest.json"
RUN = "run.json"
STATE_BRANCH = "graft-run"
_OURS = ("adapter/", "metrics.json", "dataset_report.json", MANIFEST)


class Output:
    """The place that ``JOB_OUTPUT_URI`` names."""

    def __init__(self, text: str) -> None:
        uri = parse_uri(text, "output")
        self.text = text
        self.on_hub = isinstance(uri, HubUri)
        self.result: Store = open_store(uri)
        self.state: Store = open_store(uri, branch=STATE_BRANCH) if self.on_hub else self.result
        # At the root of a repository, so that PeftModel.from_pretrained("org/name") finds it.
        self.adapter_prefix = "" if self.on_hub else "adapter/"
        self.adapter_location = uri.repo_id if isinstance(uri, HubUri) else f"{text.rstrip('/')}/adapter"

    def manifest(self, fingerprint: str) -> dict[str, Any] | None:
        """The manifest of this run's finished result; None when there is no result yet.

        Raises:
            OutputTaken: the place holds another run's result, or files that no run made.
        """
        files = {file.path: file.size for file in self._snapshot(self.result).files}
        if MANIFEST not in files:
            self._refuse_foreign(files)
            return None
        manifest = _manifest(self.result.read(MANIFEST))
        if manifest is None:
            raise OutputTaken(f"JOB_OUTPUT_URI={self.text} holds a {MANIFEST} of something else.", _ELSEWHERE)
        if manifest["fingerprint"] != fingerprint:
            raise OutputTaken(f"JOB_OUTPUT_URI={self.text} holds the result of a job with other settings.", _ELSEWHERE)
        for path, facts in manifest["files"].items():
            if files.get(path) != facts["size"]:
                raise OutputTaken(f"JOB_OUTPUT_URI={self.text}: {path} is not as {MANIFEST} says.", _ELSEWHERE)
        return manifest

    def probe_write(self) -> None:
        """Raises:
        AccessDenied: the output cannot be written.
        """
        try:
            self.state.probe_write()
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
            run = json.loads(self.state.read(RUN))
            return Decided.model_validate(run["decided"]) if run["fingerprint"] == spec.fingerprint else None
        except (NotFound, ValueError, KeyError, TypeError):  # no run, another version's, or not ours
            return None

    def claim(self, spec: JobSpec) -> "Attempt":
        """Register the next attempt, under a number that no other process has."""
        self.mark(spec)
        taken = [
            file.path.split("/")[1] for file in self._snapshot(self.state).files if file.path.startswith("attempts/")
        ]
        number = max((int(name) for name in taken if name.isdigit()), default=0) + 1
        while not self.state.create(f"attempts/{number:04d}/claim.json", _json({"fingerprint": spec.fingerprint})):
            number += 1
        return Attempt(self.state, number)

    def _refuse_foreign(self, files: dict[str, int]) -> None:
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


@dataclass(frozen=True)
class Attempt:
    """One try at a run, with its own folder in the output."""

    store: Store
    number: int

    def put(self, name: str, data: bytes) -> None:
        self.store.put(f"attempts/{self.number:04d}/{name}", data)

    def put_outcome(self, outcome: Outcome) -> None:
        self.put("outcome.json", _json(outcome.to_json()))


def _clashes(files: dict[str, int]) -> list[str]:
    return [path for path in files if path.startswith(_OURS)]


def _manifest(data: bytes) -> dict[str, Any] | None:
    try:
        manifest = json.loads(data)
        return manifest if isinstance(manifest["files"], dict) and "fingerprint" in manifest else None
    except (ValueError, KeyError, TypeError):
        return None


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode()
