"""The finished result into every output: files, read back, manifest last."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from job import __version__
from job.errors import JobError, UploadIncomplete
from job.output import Output
from job.rundir import RunDir
from job.spec import JobSpec
from job.storage import Store, StoredFile
from job.storage.transfer import MANIFEST, sha256_of

MANIFEST_VERSION = 1
REPORTS = ("metrics.json", "dataset_report.json", "report.html")
# Only these leave the adapter's folder: training_args.bin, say, would carry tokens.
_ADAPTER_SUFFIXES = (".safetensors", ".json", ".jinja", ".md", ".model", ".txt")


def publish(outputs: list[Output], run_dir: RunDir, spec: JobSpec, attempt: int) -> None:
    """Publish the adapter and reports of *run_dir* to every output, the primary first.

    Raises:
        JobError: the primary could not be written; UploadIncomplete: a secondary could not.
    """
    primary, *secondaries = outputs
    result = _result(run_dir, run_dir.metrics, spec, attempt)
    _publish_one(primary, result, spec)
    _publish_secondaries(secondaries, result, spec)


def publish_apart(primary: Output, folder: str, run_dir: RunDir, spec: JobSpec, attempt: int, cause: str = "") -> None:
    """Publish adapter and reports of *run_dir*, which are no success, under *folder* of the primary output, in place of
    what an earlier attempt has left there. The manifest says the *cause*.

    Raises:
        JobError: it could not be written.
    """
    result = _result(run_dir, run_dir.partial_metrics, spec, attempt)
    files = dict(result.adapter) | dict(result.reports)
    why = {"cause": cause, "judged_by": spec.judged_by} if cause else {}
    primary.result.replace(folder, files, make_manifest(files, dict(result.facts) | why))


def remove_apart(store: Store, folder: str) -> None:
    """Remove everything under *folder*, if there is anything.

    Raises:
        JobError: it could not be removed.
    """
    if any(file.path.startswith(f"{folder}/") for file in store.snapshot().files):
        store.delete(folder)


def _result(run_dir: RunDir, metrics: Path, spec: JobSpec, attempt: int) -> "Result":
    adapter = {path.name: path for path in sorted(run_dir.adapter.iterdir()) if path.suffix in _ADAPTER_SUFFIXES}
    others = {path.name: path for path in (run_dir.dataset_report, run_dir.report)}
    reports = {run_dir.metrics.name: metrics} | others
    return Result(adapter, reports, {"fingerprint": spec.fingerprint, "attempt": attempt})


def copy_to_secondaries(outputs: list[Output], manifest: dict[str, Any], spec: JobSpec, scratch: Path) -> list[str]:
    """Give the primary's finished result to the secondaries that lack it. Returns the places that were filled.

    Raises:
        OutputTaken: a secondary belongs to another run, or holds files that no run made.
        UploadIncomplete: a secondary could not be written, or the primary holds other bytes than *manifest* says.
    """
    primary, *secondaries = outputs
    missing = [output for output in secondaries if output.look(spec) is None]
    if missing:
        _fetch(primary, manifest, scratch)
        local = {path.removeprefix(primary.prefix(spec)): scratch / path for path in manifest["files"]}
        reports = {name: local.pop(name) for name in REPORTS if name in local}  # an earlier version made fewer
        facts = {"fingerprint": spec.fingerprint, "attempt": manifest["attempt"]}
        _publish_secondaries(missing, Result(local, reports, facts), spec)
    return [output.text for output in missing]


def _fetch(primary: Output, manifest: dict[str, Any], scratch: Path) -> None:
    """The finished result in *scratch*, as it was published: a size says nothing of a file that was damaged since."""
    sums = {path: facts["sha256"] for path, facts in manifest["files"].items()}
    sizes = {path: facts["size"] for path, facts in manifest["files"].items()}
    primary.result.fetch([StoredFile(path, sizes[path], sums[path]) for path in sums], scratch)
    for path, expected in sums.items():
        if sha256_of(scratch / path) != expected:
            raise UploadIncomplete(
                f"JOB_OUTPUT_URI={primary.text}: {path} has other bytes than {MANIFEST} says, and is not copied.",
                "Put that file back as it was, or choose another JOB_OUTPUT_URI to train again.",
            )


@dataclass(frozen=True)
class Result:
    """What is published: the adapter's files and the reports by name, and what the manifest says of the run."""

    adapter: Mapping[str, Path]
    reports: Mapping[str, Path]
    facts: Mapping[str, Any]


def _publish_secondaries(outputs: list[Output], result: Result, spec: JobSpec) -> None:
    failed: list[str] = []
    for output in outputs:
        try:
            if output.look(spec) is None:  # nobody else's, which it may have become while the job trained
                output.probe_write()
                output.mark(spec)
                _publish_one(output, result, spec)
        except JobError as error:
            failed.append(f"{output.text} ({error.cause})")
    if failed:
        raise UploadIncomplete(
            f"The result is in the first output, but not in {', '.join(failed)}",
            "Mend that place and run the job again.",
        )


def _publish_one(output: Output, result: Result, spec: JobSpec) -> None:
    adapter = {output.prefix(spec) + name: path for name, path in result.adapter.items()}
    files = adapter | dict(result.reports)
    output.result.publish(files, make_manifest(files, result.facts))


def make_manifest(files: Mapping[str, Path], facts: Mapping[str, Any]) -> bytes:
    """``manifest.json``: what the result consists of, with size in bytes and SHA-256 of each file."""
    listing = {name: {"size": path.stat().st_size, "sha256": sha256_of(path)} for name, path in files.items()}
    created = datetime.now(UTC).isoformat(timespec="seconds")
    head = {"schema_version": MANIFEST_VERSION, "graft_version": __version__, "created": created}
    return json.dumps(head | dict(facts) | {"files": listing}, indent=1).encode()
