"""Whether what the job will write fits on the file systems that it will write to. Nothing is written to find out."""

import contextlib
import os
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from job.adapters import peft_fields
from job.inputs import Source
from job.inspection import Inputs
from job.own_rundir import find_run_dir
from job.parameters import count_parameters
from job.records import ModelFacts
from job.spec import JobSpec
from job.uri import FileUri, parse_uri

_FP32 = 4  # bytes
_PER_CHECKPOINT = 3  # the adapter and Adam's two moments
# The adapter, and six checkpoints: the one being written, one on its way to the output, and four that wait behind it,
# the three newest and the best; the two that are kept here are the newest of these.
_ADAPTERS = 1 + 6 * _PER_CHECKPOINT


@dataclass(frozen=True)
class Disk:
    """One file system that the job writes to: *needed* and *free* bytes, and what is written there."""

    settings: tuple[str, ...]
    needed: int
    free: int


def disks_used(spec: JobSpec, inputs: Inputs) -> list[Disk]:
    """The file systems of ``JOB_WORK_DIR`` and of the outputs that are folders, neither of which need exist yet.

    Downloads and their temporary files, prepared rows and run files all go to ``JOB_WORK_DIR``; nothing of size goes to
    TMPDIR.
    """
    adapter = adapter_bytes(spec, inputs.model.facts)
    run = max(0, _ADAPTERS * adapter - _left_bytes(spec))
    writes = [(f"JOB_WORK_DIR={spec.work_dir}", spec.work_dir, _work_dir_bytes(spec, inputs) + run)]
    for text in spec.output_uri:
        uri = parse_uri(text, "output")
        if isinstance(uri, FileUri):
            kept = spec.save_total_limit + 2 if text == spec.output_uri[0] else 0  # and the best, and the next
            writes.append((f"JOB_OUTPUT_URI={text}", uri.path, (1 + kept * _PER_CHECKPOINT) * adapter))
    by_device = defaultdict(list)
    for setting, path, size in writes:
        place = _nearest(path)
        by_device[place.stat().st_dev].append((setting, place, size))
    # Some file systems name no size; whether they can be written is for the write probe to find out.
    return [_disk(group) for group in by_device.values() if shutil.disk_usage(group[0][1]).total]


def adapter_bytes(spec: JobSpec, model: ModelFacts) -> int:
    """Bytes of the adapter, in the dtype that takes most."""
    return _FP32 * count_parameters(model, spec.adapter, peft_fields(spec)).adapter


def _work_dir_bytes(spec: JobSpec, inputs: Inputs) -> int:
    """What is yet to be downloaded, and the rows once more as tokens. An earlier attempt's tokens may be this job's:
    that they stand there already must not keep the job from running again."""
    cache = spec.work_dir.absolute() / "cache"
    rows = [source for source in (*inputs.train, inputs.held_out) if source]
    downloads = _missing(inputs.model.source, cache / "models") + sum(
        _missing(source, cache / "datasets") for source in rows
    )
    tokens = sum(file.size for source in rows for file in source.files)
    prepared = sum(path.stat().st_size for path in (cache / "prepared").rglob("*") if path.is_file())
    return downloads + max(0, tokens - prepared)


def _left_bytes(spec: JobSpec) -> int:
    """What earlier attempts at this output have left on this machine, most of it under two names: it is gone on from,
    or it makes room."""
    if not spec.output_uri:
        return 0
    sizes = {}
    for folder, _, names in os.walk(find_run_dir(spec).root):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # one that still ends removes them
                file = Path(folder, name).stat()
                sizes[file.st_ino] = file.st_size
    return sum(sizes.values())


def _missing(source: Source, cache: Path) -> int:
    return sum(file.size for file in source.missing(cache))


def _nearest(path: Path) -> Path:
    """*path*, or the folder above it that exists and may be seen."""
    absolute = path.absolute()
    return next(place for place in (absolute, *absolute.parents) if os.path.exists(place))  # noqa: PTH110 (never raises)


def _disk(group: list[tuple[str, Path, int]]) -> Disk:
    settings, places, sizes = zip(*group, strict=True)
    return Disk(settings, sum(sizes), shutil.disk_usage(places[0]).free)
