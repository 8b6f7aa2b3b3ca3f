"""What the refusals of an S3 store mean."""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ChecksumError,
    ClientError,
    ConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
)
from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError

from job.errors import AccessDenied, JobError, NetworkExhausted, NotFound, UploadIncomplete
from job.storage.clock import SIGNATURE_TOLERANCE_S, clock_before_certificate, seconds_ahead, wrong_clock

BROKEN_STREAM = (HTTPClientError, IncompleteReadError)  # an answer that began and did not end

_NETWORK = (
    *BROKEN_STREAM,
    ConnectionError,
    ChecksumError,
    FlexibleChecksumError,
    RetriesExceededError,
    S3DownloadFailedError,
)
_BAD_CREDENTIALS = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
# Besides 429 and 5xx. The conflict is another create-if-absent of the same object that is under way.
_PASSING = {"ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "SlowDown", "Throttling"}
_DAMAGED = {"BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"}
_NEW_KEYS = "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the role of this machine."


@contextmanager
def job_errors(place: str, *, writing: bool) -> Iterator[None]:
    """Turns what the SDK raises while *place* is read or written into the job's errors."""
    try:
        yield
    except ClientError as error:
        raise _refusal(error, place, writing=writing) from error
    except _NETWORK as error:
        raise clock_before_certificate(error, place) or unreachable(place, type(error).__name__) from error
    except BotoCoreError as error:  # credentials, profile or settings that the SDK finds missing or unusable
        cause = f"The AWS SDK has no usable credentials or settings for {place} ({type(error).__name__})."
        raise AccessDenied(cause, _NEW_KEYS) from error


def status_of(error: ClientError) -> int:
    """The HTTP status of *error*."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_passing(status: int, code: str) -> bool:
    """Whether the same request may well succeed a little later."""
    return status == 429 or code in _PASSING or (status >= 500 and status != 501)


def unreachable(place: str, reason: str) -> NetworkExhausted:
    """What is left to say when all tries are used up."""
    return NetworkExhausted(f"{place} could not be reached ({reason}).", "Check the network and AWS_ENDPOINT_URL.")


def _refusal(error: ClientError, place: str, *, writing: bool) -> JobError:
    """What an HTTP error means. Only its code is repeated: the store's own sentence may name keys."""
    status, code = status_of(error), str(error.response.get("Error", {}).get("Code", ""))
    said = f"{status} {code}".removesuffix(f" {status}")  # an answer to HEAD has no body, so no code of its own
    if is_passing(status, code):
        return unreachable(place, said)
    if code in _DAMAGED:
        return UploadIncomplete(f"{place} did not arrive as it was sent ({code}).", "Start the job again.")
    ahead_s = seconds_ahead(error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date"))
    # The refusal of a HEAD has no code, and not every store has this one.
    if code == "RequestTimeTooSkewed" or (status in (401, 403) and abs(ahead_s) > SIGNATURE_TOLERANCE_S):
        return wrong_clock(place, ahead_s)
    if code == "NoSuchBucket" and writing:
        return AccessDenied(f"{place} cannot be written: there is no such bucket.", "Create it, or check its name.")
    if status == 404:
        return NotFound(f"{place} does not exist ({said}).", "Check the bucket and the key.")
    return _denial(status, code, said, place, writing=writing)


def _denial(status: int, code: str, said: str, place: str, *, writing: bool) -> AccessDenied:
    verb = "written" if writing else "read"
    if code in _BAD_CREDENTIALS:
        return AccessDenied(f"{place} cannot be {verb}: the credentials are not accepted ({code}).", _NEW_KEYS)
    if status in (401, 403) and not writing:
        cause = f"{place} is missing or forbidden ({status}): without s3:ListBucket the store does not say which."
        return AccessDenied(cause, "Check the key, and allow s3:GetObject and s3:ListBucket.")
    cause = f"{place} cannot be {verb}: the store refuses it ({said})."
    return AccessDenied(cause, "Allow s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket there.")
