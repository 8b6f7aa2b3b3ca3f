"""Whether the clock of this machine is what keeps it out of a store.

Only a store whose requests are signed with the time cares: S3 accepts a signature within 15 minutes (Amazon S3 API
reference, "Authenticating requests: AWS Signature Version 4"), and botocore does not correct for what its answers say.
The Hub does not, unless the clock is so far behind that its certificate lies in the future.
"""

import ssl
import time
from email.utils import parsedate_to_datetime

from job.errors import UnsuitableHost

SIGNATURE_TOLERANCE_S = 15 * 60
_NOT_YET_VALID = 9  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID
_FIX = "Set the clock of this machine (NTP), or use another machine."


def seconds_ahead(date: str | None) -> float:
    """How far this machine's clock is ahead of the ``Date`` that a store has just answered with, negative when it is
    behind; 0 when the store said none."""
    try:
        return time.time() - parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return 0.0


def wrong_clock(place: str, ahead_s: float) -> UnsuitableHost:
    """The error for a store that refuses signatures because of their time."""
    if abs(ahead_s) <= SIGNATURE_TOLERANCE_S:  # not measured, or by a clock that does not check signatures
        return UnsuitableHost(f"The clock of this machine is wrong: {place} refuses its signatures.", _FIX)
    distance = f"{abs(ahead_s) / 60:,.0f} minutes {'ahead of' if ahead_s > 0 else 'behind'}"
    cause = f"The clock of this machine is {distance} that of {place}, which refuses its signatures."
    return UnsuitableHost(cause, _FIX)


def refused_certificate(failure: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """Why a store's certificate is not trusted, if that is behind *failure*: no repetition mends it."""
    while failure is not None and not isinstance(failure, ssl.SSLCertVerificationError):
        failure = failure.__cause__ or failure.__context__
    return failure


def clock_before_certificate(failure: BaseException, place: str) -> UnsuitableHost | None:
    """The error for *failure* if behind it stands a certificate that is valid only in the future, else None."""
    refused = refused_certificate(failure)
    if refused is None or refused.verify_code != _NOT_YET_VALID:
        return None
    now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return UnsuitableHost(
        f"The clock of this machine ({now}) is behind: the certificate of {place} is not valid yet.", _FIX
    )
