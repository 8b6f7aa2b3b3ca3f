"""Places are named by a small grammar, and what is not in it is refused with a reason."""

from pathlib import Path

import pytest

from job.uri import FileUri, HubUri, Kind, S3Uri, Uri, parse_uri

GOOD: list[tuple[str, Kind, Uri]] = [
    ("s3://bucket", "output", S3Uri("bucket", "")),
    ("s3://bucket/", "output", S3Uri("bucket", "")),
    ("s3://bucket/a/b", "model", S3Uri("bucket", "a/b")),
    ("s3://bucket/a/b/", "model", S3Uri("bucket", "a/b")),
    ("s3://my.bucket-1/données/x y.jsonl", "dataset", S3Uri("my.bucket-1", "données/x y.jsonl")),
    ("s3://bucket/what?.jsonl", "dataset", S3Uri("bucket", "what?.jsonl")),
    ("s3://bucket/a%20b", "dataset", S3Uri("bucket", "a%20b")),
    ("hf://org/name", "model", HubUri("org/name")),
    ("hf://org/name/", "output", HubUri("org/name")),
    ("hf://org/name@v1.0", "model", HubUri("org/name", revision="v1.0")),
    ("hf://org/name@refs%2Fpr%2F1/sub", "model", HubUri("org/name", revision="refs/pr/1", path="sub")),
    ("hf://datasets/org/name", "dataset", HubUri("org/name", "dataset")),
    ("hf://datasets/org/name@main/data/", "dataset", HubUri("org/name", "dataset", "main", "data")),
    ("hf://datasets/o/n?config=en&split=train", "dataset", HubUri("o/n", "dataset", None, "", "en", "train")),
    ("hf://datasets/o/n?config=a%26b", "dataset", HubUri("o/n", "dataset", config="a&b")),
    ("hf://datasets/o/n?config=", "dataset", HubUri("o/n", "dataset")),
    ("hf://org/name/spec.yaml", "spec", HubUri("org/name", path="spec.yaml")),
    ("org/name", "model", HubUri("org/name")),
    ("org/_na.me-2@abc123", "model", HubUri("org/_na.me-2", revision="abc123")),
    ("org/name", "dataset", HubUri("org/name", "dataset")),
    ("/data/x", "dataset", FileUri(Path("/data/x"))),
    ("/data/what?/x", "dataset", FileUri(Path("/data/what?/x"))),
    ("./x", "output", FileUri(Path("x"))),
    ("file:///data/a%20b", "dataset", FileUri(Path("/data/a b"))),
]

BAD: list[tuple[str, Kind, str]] = [
    ("", "output", "neither"),
    ("name", "model", "neither"),
    ("org/name", "output", "neither"),
    ("org/name", "spec", "neither"),
    ("data/train.jsonl/x", "dataset", "neither"),
    ("~/data", "dataset", "neither"),
    ("../data", "dataset", "contains '..'"),
    ("/data/../etc", "dataset", "contains '..'"),
    ("/data/%2e%2e/etc", "dataset", "contains '..'"),
    ("/data/what?/../etc", "dataset", "contains '..'"),
    ("s3://bucket/a/../b", "dataset", "contains '..'"),
    ("s3://bucket/what?/../b", "dataset", "contains '..'"),
    ("file:///data/%2E%2E/etc", "dataset", "contains '..'"),
    ("s3://", "output", "bucket name"),
    ("s3:///key", "output", "bucket name"),
    ("s3://Bucket/key", "output", "bucket name"),
    ("s3://b/key", "output", "bucket name"),
    ("s3://bucket//key", "output", "empty path segment"),
    ("s3://bucket/a//b", "output", "empty path segment"),
    ("s3://bucket/a//", "output", "empty path segment"),
    ("file://data/x", "dataset", "absolute path"),
    ("gs://bucket/key", "output", "scheme 'gs'"),
    ("https://huggingface.co/org/name", "model", "scheme 'https'"),
    ("hf://name", "model", "not of the form"),
    ("hf://org/na--me", "model", "not of the form"),
    ("hf://org/name.git", "model", "not of the form"),
    ("hf://org/-name", "model", "not of the form"),
    ("hf://org/näme", "model", "not of the form"),
    ("hf://org/" + "n" * 97, "model", "not of the form"),
    ("hf://org/name@", "model", "not of the form"),
    ("hf://datasets/org", "dataset", "not of the form"),
    ("hf://org/name/a//b", "model", "empty path segment"),
    ("hf://org/name", "dataset", "hf://datasets/org/name"),
    ("hf://datasets/org/name", "model", "names a dataset"),
    ("hf://datasets/org/name", "output", "names a dataset"),
    ("hf://org/name@main", "output", "whole repository"),
    ("hf://org/name/sub", "output", "whole repository"),
    ("hf://datasets/o/n?subset=x", "dataset", "unknown option 'subset'"),
    ("hf://datasets/o/n?confg", "dataset", "unknown option 'confg'"),
    ("hf://org/name?config=x", "model", "belong to a dataset"),
]


@pytest.mark.parametrize(("text", "kind", "uri"), GOOD)
def test_a_place_is_read_by_the_grammar(text: str, kind: Kind, uri: Uri) -> None:
    assert parse_uri(text, kind) == uri


@pytest.mark.parametrize(("text", "kind", "uri"), GOOD)
def test_a_place_written_out_again_names_the_same_place(text: str, kind: Kind, uri: Uri) -> None:
    assert parse_uri(str(uri), kind) == uri


@pytest.mark.parametrize(("text", "kind", "reason"), BAD)
def test_anything_else_is_refused_with_the_reason(text: str, kind: Kind, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_uri(text, kind)


@pytest.mark.parametrize(
    "text",
    [
        "s3://AKIA:se/cr+et@bucket/key",
        "https://user:se/cr+et@host/x",
        "https://bucket.s3.amazonaws.com/x?X-Amz-Signature=se/cr+et",
        "postgres://u:se/cr+et@h/x",
    ],
)
def test_a_secret_in_a_mistaken_uri_is_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match=r"://") as refusal:
        parse_uri(text, "dataset")
    assert "cr+et" not in str(refusal.value)
