"""Which cases of a test every run tries, where a test has many that ask the same of our code.

The others ask it of upstream: another model, another mix of strategy and quantization. They are marked ``thorough`` and
run with ``make test-all``: after a change of what is locked, or of what they are about, and before a release.
"""

from collections.abc import Container, Iterable
from typing import Any

import pytest


def some(cases: Iterable[Any], always: Container[Any]) -> list[Any]:
    """*cases* for ``pytest.mark.parametrize``, of which those that are not in *always* are thorough."""
    return [case if case in always else _thorough(case) for case in cases]


def _thorough(case: Any) -> Any:
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.thorough)
