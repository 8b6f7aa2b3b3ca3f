"""The rights in ``deploy/iam``, weighed as S3 does: what a request needs, and whether a policy allows it."""

import fnmatch
import json
from dataclasses import dataclass
from typing import Any

from tests.servers.s3_server import Request
from tests.tiny import ROOT

FOLDER = ROOT / "deploy" / "iam"


@dataclass(frozen=True)
class Need:
    action: str
    resource: str
    prefix: str | None = None  # of a listing


def load_policies() -> list[dict[str, Any]]:
    """The statements of both policies, for a bucket called ``bucket``."""
    texts = [(FOLDER / f"{name}-policy.json").read_text() for name in ("input", "output")]
    return [one for text in texts for one in json.loads(text.replace("my-bucket", "bucket"))["Statement"]]


def needed(request: Request) -> Need:
    """The permission that S3 asks for *request* (Service Authorization Reference, "Actions defined by Amazon S3")."""
    bucket, _, key = request.path.lstrip("/").partition("/")
    arn = f"arn:aws:s3:::{bucket}"
    match request.method:
        case "GET" if not key and "uploads" in request.query:
            return Need("s3:ListBucketMultipartUploads", arn)
        case "GET" if not key:
            return Need("s3:ListBucket", arn, request.query.get("prefix", [None])[0])
        case "GET" | "HEAD":
            return Need("s3:GetObject", f"{arn}/{key}")
        case "PUT" | "POST":
            return Need("s3:PutObject", f"{arn}/{key}")
        case "DELETE":
            action = "s3:AbortMultipartUpload" if "uploadId" in request.query else "s3:DeleteObject"
            return Need(action, f"{arn}/{key}")
    raise AssertionError(f"{request.method} {request.path} is none that the job is known to send")


def granted(policies: list[dict[str, Any]]) -> set[str]:
    return {action for statement in policies for action in statement["Action"]}


def allowed(need: Need, policies: list[dict[str, Any]]) -> bool:
    return any(_allows(statement, need) for statement in policies)


def _allows(statement: dict[str, Any], need: Need) -> bool:
    return (
        statement["Effect"] == "Allow"
        and need.action in statement["Action"]
        and any(fnmatch.fnmatchcase(need.resource, pattern) for pattern in statement["Resource"])
        and (need.prefix is None or _within(statement.get("Condition", {}), need.prefix))
    )


def _within(condition: dict[str, Any], prefix: str) -> bool:
    patterns = condition.get("StringLikeIfExists", {}).get("s3:prefix")
    return patterns is None or any(fnmatch.fnmatchcase(prefix, pattern) for pattern in patterns)
