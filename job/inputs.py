"""The model and the dataset: found, looked into, and brought onto this machine."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from job.errors import BadData, NotFound
from job.facts.dataset import CARD, choose_files
from job.facts.model import identity, inspect_model, small_files, weight_files
from job.records import DataFile, ModelFacts
from job.storage import Snapshot, Store, StoredFile, open_store
from job.uri import FileUri, HubUri, Uri, parse_uri, split_pattern

_UNSAFE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # control characters, and bytes that are not UTF-8
_CARD_LIMIT = 4 * 2**20  # bytes; the configurations stand at the top, after at most the features of each


@dataclass(frozen=True)
class Source:
    """Files of one place: all that is needed to copy them here."""

    uri: Uri
    store: Store
    files: tuple[StoredFile, ...]
    revision: str | None

    def __post_init__(self) -> None:
        """See that no file name, which whoever wrote to the store has chosen, leads out of the folder it is for.

        Raises:
            BadData: one does.
        """
        for file in self.files:
            path = PurePosixPath(file.path)
            if path.is_absolute() or ".." in path.parts or _UNSAFE.search(file.path):
                raise BadData(f"{self.uri} holds a file named {file.path!r}, which is no safe name.", "Rename it.")

    @property
    def identity(self) -> str:
        return identity(self.files)

    @property
    def is_local(self) -> bool:
        return isinstance(self.uri, FileUri)

    def localize(self, cache: Path, only: Sequence[StoredFile] | None = None) -> Path:
        """A folder with the files (or with *only* some of them), downloaded into *cache* unless they are here."""
        if isinstance(self.uri, FileUri):
            return self.uri.path if self.uri.path.is_dir() else self.uri.path.parent
        self.store.fetch(self.missing(cache, only), self._folder(cache))
        return self._folder(cache)

    def missing(self, cache: Path, only: Sequence[StoredFile] | None = None) -> list[StoredFile]:
        """What `localize` has yet to download into *cache*."""
        wanted = () if self.is_local else self.files if only is None else only
        return [file for file in wanted if not _is_complete(self._folder(cache) / file.path, file)]

    def _folder(self, cache: Path) -> Path:
        return cache / self.identity[:24]


@dataclass(frozen=True)
class ModelSource:
    """The base model: its facts, the small files that preparation needs, and all files that training needs."""

    facts: ModelFacts
    source: Source
    name: str  # what adapter_config.json calls it: a repository id, or the URI as given

    @property
    def pin(self) -> str:
        """A hash that is the same on every machine for the same model. A folder's files are known by their times of
        modification, which each copy has of its own, so there it is names, sizes, configuration and tensors that
        count, and not the values of the weights, which would all have to be read."""
        if not self.source.is_local:
            return self.facts.identity
        listing = sorted((file.path, file.size) for file in self.source.files)
        described = [listing, self.facts.config, [group.model_dump() for group in self.facts.tensors]]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()

    def localize(self, cache: Path, *, weights: bool) -> Path:
        """The model's folder. Without *weights* only configuration and tokenizer are there for certain."""
        return self.source.localize(cache, None if weights else small_files(Snapshot(self.source.files)))


def find_model(text: str, cache: Path | None = None, commits: Mapping[str, str] | None = None) -> ModelSource:
    """Look into the model's configuration and safetensors headers: a real read, but no weights. Headers stay in
    *cache*, if there is one. On the Hub the model is that of its commit in *commits*, by URI, where it stands there.

    Raises:
        NotFound, AccessDenied, NetworkExhausted: it cannot be reached.
        BadSpec: it cannot be trained.
    """
    uri = parse_uri(text, "model")
    store = open_store(_at(uri, commits))
    snapshot = _whole(store)
    facts = inspect_model(store, snapshot, cache / "headers" if cache else None)
    needed = (*small_files(snapshot), *weight_files(store, snapshot))
    name = uri.repo_id if isinstance(uri, HubUri) else text
    return ModelSource(facts, Source(uri, store, needed, snapshot.revision), name)


def find_dataset(text: str, commits: Mapping[str, str] | None = None) -> Source:
    """Find the row files and read the first byte of one, so that missing rights show before anything else is done.
    *commits* as for `find_model`.

    Raises:
        NotFound, AccessDenied, NetworkExhausted: it cannot be reached.
        BadData: there is no file with rows.
        BadSpec: the dataset has several configurations, and none was asked for.
    """
    uri = parse_uri(text, "dataset")
    place = split_pattern(uri)[0]
    store = open_store(_at(place, commits))
    snapshot = _whole(store)
    files = choose_files(uri, snapshot, _card(uri, store, snapshot))
    if filled := [file for file in files if file.size]:  # no byte of an empty file can be asked for
        store.read(filled[0].path, 0, 1)
    return Source(place, store, tuple(files), snapshot.revision)


def _whole(store: Store) -> Snapshot:
    """A snapshot of *store*.

    Raises:
        NotFound: a link in it leads nowhere; what it stands for is missing.
    """
    snapshot = store.snapshot()
    if snapshot.dangling:
        raise NotFound(f"{store.uri}/{snapshot.dangling[0]} is a link that leads nowhere.", "Mend or remove it.")
    return snapshot


def _at(uri: Uri, commits: Mapping[str, str] | None) -> Uri:
    commit = (commits or {}).get(str(uri))
    return replace(uri, revision=commit) if commit and isinstance(uri, HubUri) else uri


def _card(uri: Uri, store: Store, snapshot: Snapshot) -> bytes:
    """The dataset card, which has a say only where a whole repository is named."""
    if isinstance(uri, HubUri) and not uri.path and any(file.path == CARD and file.size for file in snapshot.files):
        return store.read(CARD, 0, _CARD_LIMIT)
    return b""


def data_files(sources: Sequence[Source], weights: Sequence[float], cache: Path) -> tuple[DataFile, ...]:
    """The row files of *sources*, brought into *cache* and each under a name the user knows: its path, after its
    place where there are several. No *weights* are 1 for every source."""
    return tuple(
        DataFile(
            path=folder / file.path,
            name=file.path if len(sources) == 1 else _full_name(source.uri, file.path),
            identity=f"{file.size}:{file.identity}",
            source=number,
            weight=weights[number] if weights else 1.0,
        )
        for number, source in enumerate(sources)
        for folder in [source.localize(cache)]
        for file in source.files
    )


def _full_name(uri: Uri, path: str) -> str:
    place = str(replace(uri, config=None, split=None) if isinstance(uri, HubUri) else uri).rstrip("/")
    return place if place.endswith(f"/{path}") else f"{place}/{path}"


def _is_complete(path: Path, file: StoredFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size


def read_spec_file(text: str) -> bytes:
    """The file that ``JOB_SPEC_URI`` names.

    Raises:
        ValueError: *text* is not the URI of one file.
        NotFound, AccessDenied, NetworkExhausted: it cannot be read.
    """
    uri = parse_uri(text, "spec")
    store = open_store(uri)
    files = store.snapshot().files
    if len(files) != 1:
        raise ValueError("it names a folder; name one file")
    return store.read(files[0].path)
