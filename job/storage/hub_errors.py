"""What the Hub's refusals mean, and which of its client's many exceptions hides the cause."""

from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is httpx's or httpx2's, by version
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)

from job.errors import AccessDenied, JobError, NetworkExhausted, NotFound
from job.storage.clock import clock_before_certificate, refused_certificate
from job.storage.transfer import disk_error
from job.uri import HubUri

FAILURES = (HTTPError, EntryNotFoundError, OSError, RuntimeError)  # all that the client raises when something is wrong

_PASSING = {408, 409, 412, 429}  # besides 5xx; 409 and 412: another commit was faster


def job_error(failure: BaseException, uri: HubUri, place: str, *, writing: bool, into: Path | None = None) -> JobError:
    """The job's name for *failure*, which happened to *place*, somewhere in the repository of *uri*, or to the folder
    *into* which it was copied."""
    cause = _cause(failure)
    if isinstance(cause, HfHubHTTPError):
        return _refusal(cause, uri, place, writing=writing)
    if isinstance(cause, OSError) and not isinstance(cause, (ConnectionError, TimeoutError)):
        if cause.errno is not None:
            return disk_error(cause, place, into=into)
        if isinstance(cause, PermissionError):  # from the client's own storage protocol
            return AccessDenied(f"The Hub's storage refuses {place}.", "Check the token in HF_TOKEN.")
    if clock := clock_before_certificate(failure, place):
        return clock
    reason = type(cause).__name__
    return NetworkExhausted(f"{place} could not be reached ({reason}).", "Check the network and HF_ENDPOINT.")


def is_hopeless(failure: BaseException) -> bool:
    """Whether it is useless to try again although the Hub could not be reached."""
    return isinstance(_cause(failure), OfflineModeIsEnabled) or refused_certificate(failure) is not None


def _cause(failure: BaseException) -> BaseException:
    """The failure itself, inside what the client wraps around it."""
    while failure.__cause__ is not None and not isinstance(failure, HTTPError):
        failure = failure.__cause__
    return failure


def _refusal(error: HfHubHTTPError, uri: HubUri, place: str, *, writing: bool) -> JobError:
    status = error.response.status_code
    if status >= 500 or status in _PASSING:
        return NetworkExhausted(
            f"{place} could not be reached (the Hub answers {status}).", "Start the job again later."
        )
    if isinstance(error, GatedRepoError):
        page = f"{HfApi().endpoint}/{'datasets/' if uri.repo_type == 'dataset' else ''}{uri.repo_id}"
        return AccessDenied(f"{place} is gated.", f"Accept its licence at {page} with the account of HF_TOKEN.")
    if isinstance(error, RevisionNotFoundError):
        return NotFound(f"{place}: the repository has no such revision.", "Check the branch, tag or commit.")
    if isinstance(error, EntryNotFoundError):
        return NotFound(f"{place} does not exist.", "Check the path.")
    if status in (401, 404):
        return _missing_or_hidden(status, place, writing=writing)
    need = "write" if writing else "read"
    said = f"{status} {error.server_message or ''}".partition("\n")[0][:200].strip()
    return AccessDenied(f"The token may not {need} {place} ({said}).", f"Give HF_TOKEN {need} access to {uri.repo_id}.")


def _missing_or_hidden(status: int, place: str, *, writing: bool) -> JobError:
    if get_token() is None:
        cause = f"{place} does not exist, or is private: without a token the Hub does not say which."
        return AccessDenied(cause, "Check the name, or set HF_TOKEN.")
    if status == 401:
        return AccessDenied(f"The Hub does not accept the token in HF_TOKEN for {place}.", "Make a new token.")
    if writing:
        return AccessDenied(f"{place} does not exist, or this token may not see it.", "Check the name and HF_TOKEN.")
    return NotFound(f"{place} does not exist, or this token may not see it.", "Check the name and HF_TOKEN.")
