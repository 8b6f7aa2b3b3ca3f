"""Keeps secrets out of everything that is printed or stored."""

import re
from collections.abc import Mapping

# Variables whose values the SDKs read as credentials.
SECRET_NAME = re.compile(r".*(TOKEN|SECRET|PASSWORD|API_KEY|ACCESS_KEY(_ID)?|CREDENTIALS)")
# Credentials by their own look: Hub tokens, AWS key ids, signed URLs, passwords in URLs.
_IN_URL = r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"
_LOOKS = re.compile(
    r"hf_[A-Za-z0-9]{20,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|(?<=Signature=)[^&\s]+|(?<=Credential=)[^&\s]+"
    rf"|{_IN_URL}"
)
# In a query: X-Amz-Security-Token, Azure's sig, and what others call theirs.
_PARAMETER = re.compile(r"([?&][\w.-]*(?:token|sig|signature|secret|password|key|auth)=)[^&\s'\"]+", re.IGNORECASE)
_MIN_LENGTH = 6  # shorter values are test words that would blank out ordinary text
_MASK = "***"


def is_secret(name: str, value: str) -> bool:
    """Whether the variable *name* holds a credential: by its name, or as a URL with a password in it."""
    return bool(SECRET_NAME.fullmatch(name) or re.search(_IN_URL, value))


def redactor(env: Mapping[str, str]) -> "Redactor":
    """A function that masks the secrets of *env* and whatever looks like one."""
    return Redactor([v for name, v in env.items() if SECRET_NAME.fullmatch(name) and len(v) >= _MIN_LENGTH])


class Redactor:
    def __init__(self, secrets: list[str]) -> None:
        self._secrets = sorted(secrets, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, _MASK)
        return _PARAMETER.sub(rf"\1{_MASK}", _LOOKS.sub(_MASK, text))
