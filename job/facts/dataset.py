"""Which files of a place hold the rows."""

import re

from job.errors import BadData, NotFound
from job.storage import Snapshot, StoredFile
from job.uri import HubUri, Uri

ROW_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
# Files that repositories keep beside their rows.
_NOT_ROWS = re.compile(r"(^|/)(dataset_infos?|package|config|metadata)\.json$")


def choose_files(uri: Uri, snapshot: Snapshot) -> list[StoredFile]:
    """The row files of *snapshot*, by path. On the Hub, those of the split (default ``train``): the files whose path
    contains its name as a word, or all of them when none does and no split was asked for.

    Raises:
        BadData: there are files, but none with rows.
        NotFound: no file belongs to the split that was asked for.
    """
    files = [file for file in snapshot.files if file.path.endswith(ROW_SUFFIXES) and not _NOT_ROWS.search(file.path)]
    if not files:
        found = ", ".join(file.path for file in snapshot.files[:3])
        raise BadData(f"{uri} holds no rows: found {found}.", f"Give a file that ends in {', '.join(ROW_SUFFIXES)}.")
    if isinstance(uri, HubUri):
        files = _of_config(uri, files)
        files = _of_split(uri, files)
    return sorted(files, key=lambda file: file.path)


def _of_config(uri: HubUri, files: list[StoredFile]) -> list[StoredFile]:
    if uri.config is None:
        return files
    chosen = [file for file in files if uri.config in file.path.split("/")[:-1]]
    if not chosen:
        raise NotFound(f"{uri}: no folder is named {uri.config!r}.", "Check config= in the URI.")
    return chosen


def _of_split(uri: HubUri, files: list[StoredFile]) -> list[StoredFile]:
    word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(uri.split or 'train')}(?![A-Za-z0-9])")
    chosen = [file for file in files if word.search(file.path)]
    if not chosen and uri.split:
        raise NotFound(f"{uri}: no file belongs to split {uri.split!r}.", "Check split= in the URI.")
    return chosen or files
