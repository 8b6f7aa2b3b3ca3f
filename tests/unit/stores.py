"""Stores as the job opens them, and what they list."""

from job.storage import Snapshot, Store, open_store
from job.uri import parse_uri


def store_at(uri: str, branch: str | None = None) -> Store:
    kind = "dataset" if "datasets/" in uri else "model"
    return open_store(parse_uri(uri, kind), branch=branch)


def paths(snapshot: Snapshot) -> list[str]:
    return [file.path for file in snapshot.files]
