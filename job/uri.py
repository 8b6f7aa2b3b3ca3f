"""The three places a model, a dataset or an output can live: an object store, the Hugging Face Hub, a folder.

A URI names a place, never a host: endpoints come from the operator's own ``AWS_ENDPOINT_URL`` and ``HF_ENDPOINT``.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, unquote

Kind = Literal["model", "dataset", "output", "spec"]

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # Hub: org/name, letters, digits, '-', '_', '.'
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")  # S3: 3-63 characters, lower case


@dataclass(frozen=True)
class S3Uri:
    """``s3://bucket/key``; *key* has no leading or trailing slash and may be empty."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}".rstrip("/")


@dataclass(frozen=True)
class HubUri:
    """``hf://[datasets/]org/name[@revision][/path][?config=...&split=...]``."""

    repo_id: str
    repo_type: Literal["model", "dataset"] = "model"
    revision: str | None = None
    path: str = ""
    config: str | None = None
    split: str | None = None

    def __str__(self) -> str:
        prefix = "datasets/" if self.repo_type == "dataset" else ""
        revision = f"@{self.revision}" if self.revision else ""
        path = f"/{self.path}" if self.path else ""
        query = "&".join(f"{k}={v}" for k, v in (("config", self.config), ("split", self.split)) if v)
        return f"hf://{prefix}{self.repo_id}{revision}{path}" + (f"?{query}" if query else "")


@dataclass(frozen=True)
class FileUri:
    """``file:///path``, or a path that starts with ``/`` or ``./``."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


Uri = S3Uri | HubUri | FileUri


def parse_uri(text: str, kind: Kind) -> Uri:
    """Read *text* as the place of a model, dataset, output or spec.

    Raises:
        ValueError: not one of the forms above; the message says which forms are.
    """
    if ".." in unquote(text).split("?")[0].split("/"):
        raise ValueError(f"{text!r} contains '..'; name the place directly")
    match text.partition("://"):
        case ("s3", "://", rest):
            return _parse_s3(text, rest)
        case ("hf", "://", rest):
            return _parse_hub(text, rest, kind)
        case ("file", "://", rest) if rest.startswith("/"):
            return FileUri(Path(unquote(rest)))
        case (scheme, "://", _):
            raise ValueError(f"{text!r}: scheme {scheme!r} is not supported; use s3://, hf:// or a path")
    if text.startswith(("/", "./")):
        return FileUri(Path(text))
    if kind in ("model", "dataset") and _REPO_ID.fullmatch(text.partition("@")[0]):
        return _parse_hub(text, ("datasets/" if kind == "dataset" else "") + text, kind)
    raise ValueError(f"{text!r} is neither s3://bucket/key, hf://org/name nor a path; a path starts with '/' or './'")


def _parse_s3(text: str, rest: str) -> S3Uri:
    bucket, _, key = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(f"{text!r}: {bucket!r} is not a bucket name (3-63 of a-z, 0-9, '.', '-')")
    key = key.strip("/")
    if "//" in key:
        raise ValueError(f"{text!r} contains an empty path segment '//'")
    return S3Uri(bucket, key)


def _parse_hub(text: str, rest: str, kind: Kind) -> HubUri:
    place, _, query = rest.partition("?")
    repo_type: Literal["model", "dataset"] = "dataset" if place.startswith("datasets/") else "model"
    if kind == "dataset" and repo_type == "model":
        raise ValueError(f"{text!r} names a model; a dataset on the Hub is hf://datasets/org/name")
    if kind in ("model", "output") and repo_type == "dataset":
        raise ValueError(f"{text!r} names a dataset repository; a {kind} is hf://org/name")
    form = re.fullmatch(r"([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?", place.removeprefix("datasets/"))
    if form is None or not _REPO_ID.fullmatch(form[1]):
        raise ValueError(f"{text!r} is not of the form hf://org/name[@revision]")
    options = dict(parse_qsl(query))
    if unknown := set(options) - {"config", "split"}:
        raise ValueError(f"{text!r}: unknown option {min(unknown)!r}; known are config and split")
    if kind == "output" and (form[2] or form[3]):
        raise ValueError(f"{text!r}: an output is a whole repository, without @revision or path")
    revision = unquote(form[2]) if form[2] else None
    return HubUri(form[1], repo_type, revision, form[3] or "", options.get("config"), options.get("split"))
