"""Which files of a place hold the rows."""

import re
from collections import Counter
from collections.abc import Sequence

from job.errors import BadData, NotFound
from job.facts.patterns import is_hidden, matches
from job.facts.splits import splits_by_card, splits_by_name
from job.storage import Snapshot, StoredFile
from job.uri import HubUri, Uri, split_pattern

CARD = "README.md"
# In the order in which one is preferred where a repository holds its rows in several.
FORMATS = (".parquet", ".arrow", ".jsonl", ".json", ".csv")
ROW_SUFFIXES = (*FORMATS, *(text + packed for text in (".jsonl", ".json", ".csv") for packed in (".gz", ".zst")))

# Files that repositories and `datasets.save_to_disk` keep beside their rows.
_NOT_ROWS = re.compile(r"(^|/)(dataset_infos?|dataset_dict|state|package|config|metadata)\.json$")
_REFUSED = {
    (
        ".zip",
        ".tar",
        ".tgz",
        ".tbz2",
        ".txz",
        ".tar.gz",
        ".tar.bz2",
        ".tar.xz",
        ".tar.zst",
        ".7z",
        ".rar",
    ): "an archive, and archives are not unpacked",
    (".py",): "a dataset script, and scripts are never run",
    (
        ".pkl",
        ".pickle",
        ".joblib",
        ".pt",
        ".pth",
        ".bin",
        ".npy",
        ".npz",
    ): "a pickle or may hold one, and pickles run code",
    (".gz", ".zst", ".bz2", ".xz", ".lz4"): "compressed in a way that is not read",
}
_READABLE = "Give JSONL, JSON, CSV, Parquet or Arrow files; the text formats may end in .gz or .zst too."


def choose_files(uri: Uri, snapshot: Snapshot, card: bytes = b"") -> list[StoredFile]:
    """The row files of *snapshot* that *uri* means, by path: the one it names, those that match its pattern, or all
    below it. In a dataset repository those of one split (default ``train``), as *card*, its README.md, declares it or
    as the file names tell, and of one format.

    Raises:
        BadData: there are files, but none with rows.
        BadSpec: the repository has several configurations and no default.
        NotFound: no file matches, or belongs to the configuration or split that was asked for.
    """
    pattern = split_pattern(uri)[1]
    files = [file for file in snapshot.files if not pattern or matches(pattern, file.path)]
    if not files:
        raise NotFound(f"{uri} matches none of the {len(snapshot.files)} files there.", "Check the pattern.")
    if _names_one_file(uri, files):
        return _with_rows(uri, files)
    if isinstance(uri, HubUri) and not (pattern and not uri.config and not uri.split):
        return _of_one_format(_of_split(uri, files, card))
    if any(file.path == "dataset_dict.json" for file in files):
        raise BadData(f"{uri} holds a DatasetDict with several splits.", f"Name one of them, as in {uri}/train.")
    return _with_rows(uri, [file for file in files if pattern or not is_hidden(file.path)] or files)


def _names_one_file(uri: Uri, files: Sequence[StoredFile]) -> bool:
    place = str(uri).partition("?")[0] if isinstance(uri, HubUri) else str(uri)
    return len(files) == 1 and place.endswith(f"/{files[0].path}")


def _with_rows(uri: Uri, files: Sequence[StoredFile]) -> list[StoredFile]:
    """Those of *files* that hold rows, by path.

    Raises:
        BadData: none does.
    """
    beside = [] if _names_one_file(uri, files) else [file for file in files if _NOT_ROWS.search(file.path)]
    rows = [file for file in files if file.path.endswith(ROW_SUFFIXES) and file not in beside]
    if not rows:
        raise _no_rows(uri, files)
    return sorted(rows, key=lambda file: file.path)


def _no_rows(uri: Uri, files: Sequence[StoredFile]) -> BadData:
    for suffixes, reason in _REFUSED.items():
        for file in files:
            if file.path.endswith(suffixes):
                return BadData(f"{uri} holds no rows: {file.path} is {reason}.", _advice(uri, file.path))
    found = ", ".join(file.path for file in files[:3])
    return BadData(f"{uri} holds no rows: found {found}.", _READABLE)


def _advice(uri: Uri, path: str) -> str:
    if isinstance(uri, HubUri) and path.endswith(".py"):
        copy = f"hf://datasets/{uri.repo_id}@refs%2Fconvert%2Fparquet"
        return f"Try the copy in Parquet that the Hub makes of many datasets: {copy}."
    return _READABLE


def _of_split(uri: HubUri, files: Sequence[StoredFile], card: bytes) -> list[StoredFile]:
    """The row files of the split that *uri* asks for."""
    rows = {file.path: file for file in _with_rows(uri, files)}
    splits = splits_by_card(uri, card, list(rows)) if card else None
    if splits is None:
        splits = splits_by_name(_of_folder(uri, list(rows)))
    wanted = uri.split or "train"
    if wanted not in splits:
        fix = "Check split= in the URI." if uri.split else "Add ?split= to the URI."
        raise NotFound(f"{uri}: the dataset has no split {wanted!r}; it has {', '.join(splits)[:300]}.", fix)
    if not splits[wanted]:
        raise NotFound(f"{uri}: no file matches what README.md declares for split {wanted!r}.", "Name the files.")
    return [rows[path] for path in splits[wanted]]


def _of_folder(uri: HubUri, paths: list[str]) -> list[str]:
    """Without a card that declares configurations, one is a folder of that name."""
    if uri.config is None:
        return paths
    chosen = [path for path in paths if uri.config in path.split("/")[:-1]]
    if not chosen:
        raise NotFound(f"{uri}: no folder is named {uri.config!r}.", "Check config= in the URI.")
    return chosen


def _of_one_format(files: list[StoredFile]) -> list[StoredFile]:
    """Those in the format of most of *files*: a repository may hold the same rows twice."""
    counts = Counter(_format(file) for file in files)
    chosen = max(FORMATS, key=lambda name: counts[name])
    return [file for file in files if _format(file) == chosen]


def _format(file: StoredFile) -> str:
    """The suffix without the compression; JSON Lines go by either name."""
    name = file.path.removesuffix(".gz").removesuffix(".zst")
    suffix = name[name.rfind(".") :]
    return ".jsonl" if suffix == ".json" else suffix
