"""An S3 store for tests: moto behind a middleware that checks what moto takes on trust, and that fails on demand.

It verifies signatures (with the secret), payload hashes, upload checksums in headers and aws-chunked trailers,
Content-MD5, and the full-object checksum of a completed multipart upload.

As a process of its own: ``python -m tests.servers.s3_server PORT [BUCKET ...]``, with the key pair below.
"""

import base64
import calendar
import hashlib
import io
import re
import ssl
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from awscrt import checksums
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography.hazmat.primitives import serialization as to
from moto.moto_api._internal.models import moto_api_backend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import generate_adhoc_ssl_pair

from tests.servers.faults import Faults, cut, damage, start, stop

ACCESS_KEY, SECRET_KEY, REGION = "GRAFTTESTKEY", "graft/test+secret", "us-east-1"
TEMPORARY_KEY = "GRAFTTEMPORARYKEY"  # and the time, in seconds since the epoch, until which the key is good

Environ = dict[str, Any]
StartResponse = Callable[..., Any]

_CHECKSUMS: dict[str, Callable[[bytes], bytes]] = {
    "crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "crc32c": lambda data: checksums.crc32c(data).to_bytes(4, "big"),
    "crc64nvme": lambda data: checksums.crc64nvme(data).to_bytes(8, "big"),
    "sha1": lambda data: hashlib.sha1(data).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
}


@dataclass
class Request:
    """One request as it arrived: *headers* in lower case, *body* with aws-chunked framing removed."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    trailers: dict[str, str] = field(default_factory=dict)
    time: float = field(default_factory=time.time)


class Refused(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class S3Server(AbstractContextManager["S3Server"]):
    """``with S3Server() as server: server.make_bucket("b")``; the endpoint is ``server.url``.

    Its clock is *ahead_s* seconds ahead of this machine's, and it refuses signatures that are 15 minutes old or new.

    *conditional* is how it treats ``If-None-Match``: "honoured", "refused" (501) or "ignored". With
    *reports_checksums* off it forgets the checksums it was given. ``server.faults.plan(...)`` makes requests fail. With
    *tls_folder* it speaks TLS and leaves its certificate there as ``ca.pem``.
    """

    def __init__(self, port: int = 0, tls_folder: Path | None = None) -> None:
        self.conditional = "honoured"
        self.reports_checksums = True
        self.ahead_s = 0.0
        self.requests: list[Request] = []
        self.faults = Faults()
        self._lock = threading.Lock()
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = start(self, port, _tls(tls_folder) if tls_folder else None)
        self.url = f"{'https' if tls_folder else 'http'}://localhost:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        stop(self._server)

    def reset(self) -> None:
        """Forget all buckets, requests and faults."""
        self.faults.clear()
        moto_api_backend.reset()
        self.conditional, self.reports_checksums, self.ahead_s = "honoured", True, 0.0
        self.requests.clear()

    def make_bucket(self, name: str) -> None:
        self._backend.create_bucket(name, REGION)

    def keys(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """What the bucket holds under *prefix*, while requests may change it."""
        stored = self._backend.get_bucket(bucket).keys
        found = {name: stored.get(name) for name in list(stored) if name.startswith(prefix)}
        return {name: key.value for name, key in found.items() if key is not None}

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Place an object past all checks."""
        self._backend.put_object(bucket, key, data)

    def remove(self, bucket: str, key: str) -> None:
        """Remove an object past all checks."""
        self._backend.delete_object(bucket, key)

    def open_uploads(self, bucket: str) -> int:
        """Multipart uploads that were begun and neither completed nor aborted."""
        return len(self._backend.get_bucket(bucket).multiparts)

    @property
    def _backend(self) -> Any:
        return s3_backends["123456789012"]["aws"]

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        arrived = time.time() + self.ahead_s  # its signature is of then, however slow the line
        request = _read(environ, self.faults.receive(environ))
        self.requests.append(request)
        fault = self.faults.take(request.method, request.path)
        kind = fault.kind if fault else ""
        try:
            if fault and kind == "status":
                raise Refused(fault.status, fault.code)
            forgotten = fault is not None and kind in ("slow", "hang") and self.faults.held(fault.seconds)
            if forgotten or kind in ("reset", "hang"):
                return cut(environ)
            _check_time(request, arrived)
            _check_signature(environ, request, arrived)
            _check_body(request)
            self._check_condition(environ, request)
        except Refused as refused:
            return _refuse(refused, request, start_response)
        if kind == "damaged":
            request.body = damage(request.body)
        answer = self._carry_out(environ, request)
        if kind == "lost":
            return cut(environ)
        status, headers, body = answer
        start_response(status, headers)
        return self.faults.send(body[: len(body) // 2] if kind == "truncated" else body)

    def _check_condition(self, environ: Environ, request: Request) -> None:
        if "if-none-match" in request.headers and request.method == "PUT":
            if self.conditional == "refused":
                raise Refused(501, "NotImplemented")
            if self.conditional == "ignored":
                del environ["HTTP_IF_NONE_MATCH"]

    def _carry_out(self, environ: Environ, request: Request) -> tuple[str, list[tuple[str, str]], bytes]:
        """Hand the request to moto: alone if it is conditional (moto looks, then writes), with what moto forgets."""
        answer: list[Any] = []
        _prepare(environ, request, keep_checksum=self.reports_checksums)
        with self._lock if "if-none-match" in request.headers else threading.Lock():
            chunks = self._moto(environ, lambda status, headers, _=None: answer.extend((status, headers)))
            body = b"".join(chunks)
        full = request.headers.get("x-amz-checksum-crc64nvme")
        if request.method == "POST" and "uploadId" in request.query and full:
            bucket, _, key = request.path.lstrip("/").partition("/")
            if _digest("crc64nvme", self.keys(bucket)[key]) != full:
                self._backend.delete_object(bucket, key)
                return "400 Bad Request", [], _xml("BadDigest")
        headers = [(k, v) for k, v in answer[1] if self.reports_checksums or not k.startswith("x-amz-checksum")]
        return answer[0], headers, body


def _tls(folder: Path) -> ssl.SSLContext:
    certificate, key = generate_adhoc_ssl_pair(cn="localhost")
    (folder / "ca.pem").write_bytes(certificate.public_bytes(to.Encoding.PEM))
    plain = key.private_bytes(to.Encoding.PEM, to.PrivateFormat.TraditionalOpenSSL, to.NoEncryption())
    (folder / "key.pem").write_bytes(plain)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    return context


def _read(environ: Environ, body: bytes) -> Request:
    headers = {name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name.startswith("HTTP_")}
    headers |= {"content-type": environ.get("CONTENT_TYPE", ""), "content-length": environ.get("CONTENT_LENGTH", "")}
    path = environ["PATH_INFO"].encode("latin-1").decode()
    request = Request(
        environ["REQUEST_METHOD"], path, parse_qs(environ["QUERY_STRING"], keep_blank_values=True), headers, body
    )
    if "aws-chunked" in headers.get("content-encoding", ""):
        request.body, request.trailers = _unchunk(body)
    return request


def _unchunk(framed: bytes) -> tuple[bytes, dict[str, str]]:
    stream, data = io.BytesIO(framed), b""
    while size := int(stream.readline().split(b";")[0], 16):
        data += stream.read(size)
        stream.readline()
    lines = [line.decode().strip() for line in stream.read().splitlines() if line.strip()]
    return data, {name.lower(): value for name, _, value in (line.partition(":") for line in lines)}


def _check_time(request: Request, now: float) -> None:
    signed = request.headers.get("x-amz-date", "")
    if signed and abs(calendar.timegm(time.strptime(signed, "%Y%m%dT%H%M%SZ")) - now) > 15 * 60:
        raise Refused(403, "RequestTimeTooSkewed")


def _check_signature(environ: Environ, request: Request, arrived: float) -> None:
    form = (
        r"AWS4-HMAC-SHA256 Credential=([^/]+)/\d{8}/([^/]+)/s3/aws4_request, ?SignedHeaders=([^,]+), ?Signature=(\w+)"
    )
    found = re.fullmatch(form, request.headers.get("authorization", ""))
    if not found:
        raise Refused(403, "AccessDenied")
    key, region, signed, signature = found.groups()
    if key != ACCESS_KEY and not key.startswith(TEMPORARY_KEY):
        raise Refused(403, "InvalidAccessKeyId")
    if key != ACCESS_KEY and arrived >= float(key.removeprefix(TEMPORARY_KEY)):
        raise Refused(400, "ExpiredToken")
    url = f"http://{request.headers['host']}{environ['RAW_URI']}"
    again = AWSRequest(request.method, url, headers={name: request.headers.get(name, "") for name in signed.split(";")})
    again.context["timestamp"] = request.headers["x-amz-date"]
    signer = S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", region)
    if signer.signature(signer.string_to_sign(again, _canonical(signer, again, signed)), again) != signature:
        raise Refused(403, "SignatureDoesNotMatch")


def _canonical(signer: S3SigV4Auth, request: AWSRequest, signed: str) -> str:
    """The canonical request over exactly the headers that the client says it signed."""
    path, _, query = request.url.split("//", 1)[1].partition("/")[2].partition("?")
    pairs = sorted(pair if "=" in pair else f"{pair}=" for pair in query.split("&") if pair)
    lines = [f"{name}:{' '.join(request.headers[name].split())}" for name in signed.split(";")]
    payload = request.headers["x-amz-content-sha256"]
    return "\n".join([request.method, f"/{path}", "&".join(pairs), *lines, "", signed, payload])


def _check_body(request: Request) -> None:
    claimed = request.headers.get("x-amz-content-sha256", "")
    if re.fullmatch(r"[0-9a-f]{64}", claimed) and hashlib.sha256(request.body).hexdigest() != claimed:
        raise Refused(400, "XAmzContentSHA256Mismatch")
    md5 = request.headers.get("content-md5")
    if md5 and base64.b64encode(hashlib.md5(request.body).digest()).decode() != md5:
        raise Refused(400, "BadDigest")
    if request.method == "PUT":
        for name, value in {**request.headers, **request.trailers}.items():
            algorithm = name.removeprefix("x-amz-checksum-")
            if algorithm in _CHECKSUMS and algorithm != name and _digest(algorithm, request.body) != value:
                raise Refused(400, "BadDigest")


def _digest(algorithm: str, data: bytes) -> str:
    return base64.b64encode(_CHECKSUMS[algorithm](data)).decode()


def _prepare(environ: Environ, request: Request, *, keep_checksum: bool) -> None:
    """Give moto the plain body, and the header without which it stores no checksum."""
    for name in ("HTTP_CONTENT_ENCODING", "HTTP_TRANSFER_ENCODING", "HTTP_X_AMZ_TRAILER", "HTTP_X_AMZ_CONTENT_SHA256"):
        environ.pop(name, None)
    environ |= {"wsgi.input": io.BytesIO(request.body), "CONTENT_LENGTH": str(len(request.body))}
    environ.pop("wsgi.input_terminated", None)
    environ["HTTP_AUTHORIZATION"] = request.headers["authorization"]
    given = [name[15:] for name in {**request.headers, **request.trailers} if name[:15] == "x-amz-checksum-"]
    for algorithm in set(given) & set(_CHECKSUMS):
        environ.pop(f"HTTP_X_AMZ_CHECKSUM_{algorithm.upper()}", None)
        if keep_checksum and request.method == "PUT":
            environ["HTTP_X_AMZ_SDK_CHECKSUM_ALGORITHM"] = algorithm.upper()
            environ[f"HTTP_X_AMZ_CHECKSUM_{algorithm.upper()}"] = _digest(algorithm, request.body)


def _refuse(refused: Refused, request: Request, start_response: StartResponse) -> Iterable[bytes]:
    body = b"" if request.method == "HEAD" else _xml(refused.code)
    start_response(
        f"{refused.status} Refused", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
    )
    return [body]


def _xml(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>for a test</Message></Error>".encode()


def main(port: int, *buckets: str) -> None:
    with S3Server(port) as server:
        for bucket in buckets:
            server.make_bucket(bucket)
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
