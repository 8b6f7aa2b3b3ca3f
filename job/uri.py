"""The three places a model, a dataset or an output can live: an object store, the Hugging Face Hub, a folder.

A URI names a place, never a host: endpoints come from the operator's own ``AWS_ENDPOINT_URL`` and ``HF_ENDPOINT``.
"""

import ipaddress
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode

Kind = Literal["model", "dataset", "output", "spec"]

# Hub: ASCII letters, digits, '-', '_' and '.', each half 1-96 long, neither starting nor ending with '-' or '.'
_REPO_ID = re.compile(r"\w([\w.-]{0,94}\w)?/\w([\w.-]{0,94}\w)?", re.ASCII)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")  # S3: 3-63 characters, lower case
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ENCODED_SEPARATOR = re.compile(r"%(2e|2f|5c)", re.IGNORECASE)  # '.', '/', '\\'


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
        revision = f"@{quote(self.revision, safe='')}" if self.revision else ""
        path = f"/{self.path}" if self.path else ""
        query = urlencode({k: v for k, v in (("config", self.config), ("split", self.split)) if v})
        return f"hf://{prefix}{self.repo_id}{revision}{path}" + (f"?{query}" if query else "")


@dataclass(frozen=True)
class FileUri:
    """``file:///path``, or a path that starts with ``/`` or ``./``."""

    path: Path

    def __str__(self) -> str:
        return str(self.path) if self.path.is_absolute() else f"./{self.path}"


Uri = S3Uri | HubUri | FileUri


def parse_uri(text: str, kind: Kind) -> Uri:
    """Read *text* as the place of a model, dataset, output or spec.

    Raises:
        ValueError: not one of the forms above; the message says which forms are, and repeats no password and no query.
    """
    _refuse_hidden_steps(text)
    match text.partition("://"):
        case ("s3", "://", rest):
            return _parse_s3(text, rest)
        case ("hf", "://", rest):
            return _parse_hub(text, rest, kind)
        case ("file", "://", rest):
            return _parse_file(text, rest)
        case ("http" | "https" as scheme, "://", _):
            raise ValueError(
                f"{_shown(text)}: scheme {scheme!r} is not supported, nothing is downloaded from a web address; "
                "use s3://bucket/key, hf://org/name or a path"
            )
        case (scheme, "://", _):
            raise ValueError(f"{_shown(text)}: scheme {scheme!r} is not supported; use s3://, hf:// or a path")
    if text.startswith(("/", "./")):
        return FileUri(Path(text))
    if kind in ("model", "dataset") and _is_repo_id(text.partition("@")[0]):
        return _parse_hub(text, ("datasets/" if kind == "dataset" else "") + text, kind)
    raise ValueError(
        f"{_shown(text)} is neither s3://bucket/key, hf://org/name nor a path; a path starts with '/' or './'"
    )


def split_pattern(uri: Uri) -> tuple[Uri, str]:
    """The place that holds all that *uri* can match, and the pattern below it, which is empty where *uri* has none of
    ``*``, ``?`` and ``[``."""
    match uri:
        case S3Uri(bucket, key):
            place, pattern = _split_pattern(key)
            return S3Uri(bucket, place), pattern
        case HubUri(path=path):
            place, pattern = _split_pattern(path)
            return replace(uri, path=place), pattern
        case FileUri(path):
            place, pattern = _split_pattern(path.as_posix())
            return FileUri(Path(place or ("/" if path.is_absolute() else "."))), pattern


def _split_pattern(path: str) -> tuple[str, str]:
    parts = path.split("/")
    fixed = next((index for index, part in enumerate(parts) if re.search(r"[*?[]", part)), len(parts))
    return "/".join(parts[:fixed]), "/".join(parts[fixed:])


def _refuse_hidden_steps(text: str) -> None:
    """A step upwards, a separator in disguise, or a character that ends a file name early."""
    on_hub = text.startswith("hf://") or not ("://" in text or text.startswith(("/", "./")))
    place = text.partition("?")[0] if on_hub else text
    if ".." in unquote(place).replace("\\", "/").split("/"):
        raise ValueError(f"{_shown(text)} contains '..'; name the place directly")
    path = re.sub(r"@[^/]*", "", place, count=1) if on_hub else place  # refs%2Fpr%2F1 is a revision
    if found := _ENCODED_SEPARATOR.search(path):
        raise ValueError(f"{_shown(text)} contains {found[0]!r}; write the character itself")
    if _CONTROL.search(unquote(place)):
        raise ValueError(f"{_shown(text)} contains a control character")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _parse_s3(text: str, rest: str) -> S3Uri:
    bucket, _, key = rest.partition("/")
    if not _BUCKET.fullmatch(bucket) or _is_address(bucket):
        raise ValueError(f"{_shown(text)} does not start with a bucket name (3-63 of a-z, 0-9, '.', '-')")
    if "//" in rest:
        raise ValueError(f"{_shown(text)} contains an empty path segment '//'")
    return S3Uri(bucket, key.strip("/"))


def _parse_file(text: str, rest: str) -> FileUri:
    if not rest.startswith("/"):
        raise ValueError(f"{_shown(text)}: file:// takes an absolute path, as in file:///data")
    return FileUri(Path(unquote(rest)))


def _parse_hub(text: str, rest: str, kind: Kind) -> HubUri:
    place, _, query = rest.partition("?")
    repo_type: Literal["model", "dataset"] = "dataset" if place.startswith("datasets/") else "model"
    if kind == "dataset" and repo_type == "model":
        raise ValueError(f"{_shown(text)} names a model; a dataset on the Hub is hf://datasets/org/name")
    if kind in ("model", "output") and repo_type == "dataset":
        raise ValueError(f"{_shown(text)} names a dataset repository; a {kind} is hf://org/name")
    form = re.fullmatch(r"([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.*))?", place.removeprefix("datasets/"))
    if form is None or not _is_repo_id(form[1]):
        raise ValueError(f"{_shown(text)} is not of the form hf://org/name[@revision]")
    revision, path = form[2], (form[3] or "").strip("/")
    if "//" in path:
        raise ValueError(f"{_shown(text)} contains an empty path segment '//'")
    if kind == "output" and (revision or path):
        raise ValueError(f"{_shown(text)}: an output is a whole repository, without @revision or path")
    options = _options(text, query, repo_type)
    revision = unquote(revision) if revision else None
    return HubUri(form[1], repo_type, revision, path, options.get("config"), options.get("split"))


def _options(text: str, query: str, repo_type: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := set(options) - {"config", "split"}:
        raise ValueError(f"{_shown(text)}: unknown option {min(unknown)!r}; known are config and split")
    if options and repo_type != "dataset":
        raise ValueError(f"{_shown(text)}: config and split belong to a dataset, hf://datasets/org/name")
    return {name: value for name, value in options.items() if value}


def _is_repo_id(text: str) -> bool:
    return bool(_REPO_ID.fullmatch(text)) and "--" not in text and ".." not in text and not text.endswith(".git")


def _shown(text: str) -> str:
    """*text* for an error message: what may be a secret in a mistaken URI (user:password@, a signed query) is cut."""
    place = text.partition("?")[0]
    return repr(place if place.startswith("hf://") else re.sub(r"://.*@", "://***@", place))
