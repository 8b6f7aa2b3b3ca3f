"""The one client of the AWS SDK in this process: its time limits, and when it repeats a request.

The SDK's own repetitions are switched off. Those of botocore 1.44 (``standard``, now the default) wait 50 ms at first,
so that eight tries of a cut connection are over in 3 seconds, and all requests share a quota that 35 such failures use
up: sixteen parts in flight do not outlast the restart of a store.
"""

from functools import cache
from typing import Any

from botocore.config import Config
from botocore.exceptions import ConnectionError, HTTPClientError
from botocore.session import Session

from job.errors import BadSpec
from job.storage.clock import refused_certificate
from job.storage.patience import Patience
from job.storage.s3_errors import is_passing

_CONNECT_S = 10  # also how long a send may make no headway, on a fresh connection
_READ_S = 30  # without a byte of the answer
# As a rule the store has just been waited for in vain; and the next attempt tidies up too.
_TIDYING, _TIDYING_S = "AbortMultipartUpload", 10.0


@cache
def client() -> Any:
    """Made when it is first needed: that takes 0.2 s, and it keeps connections."""
    session = Session()
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=_CONNECT_S,
        read_timeout=_READ_S,
        max_pool_connections=32,
    )
    try:
        made = session.create_client("s3", config=config)
    except ValueError as error:
        raise BadSpec("AWS_ENDPOINT_URL is not a URL.", "Give it as http(s)://host[:port].") from error
    made.meta.events.register("needs-retry.s3", _Repeat(session.get_config_variable("max_attempts")))
    return made


class _Repeat:
    """Says after each answer, or failure to get one, in how many seconds the SDK is to send the request again."""

    def __init__(self, max_attempts: int | None) -> None:
        self._max_attempts = max_attempts or float("inf")  # AWS_MAX_ATTEMPTS: whichever ends first

    def __call__(
        self,
        attempts: int,
        operation: Any,
        response: Any,
        caught_exception: Exception | None,
        request_dict: dict[str, Any],
        **_: Any,
    ) -> float | None:
        passing = _is_passing(response[1]) if response else _is_unanswered(caught_exception)
        if not passing or attempts >= self._max_attempts:
            return None
        new = Patience(_TIDYING_S) if operation.name == _TIDYING else Patience()
        patience: Patience = request_dict["context"].setdefault("graft_patience", new)
        return patience.wait_s()


def _is_passing(answer: dict[str, Any]) -> bool:
    status = int(answer["ResponseMetadata"].get("HTTPStatusCode", 0))
    return is_passing(status, str(answer.get("Error", {}).get("Code", "")))


def _is_unanswered(failure: Exception | None) -> bool:
    return isinstance(failure, (ConnectionError, HTTPClientError)) and refused_certificate(failure) is None
