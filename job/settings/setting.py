"""One setting."""

from typing import Any

from pydantic import Field


def setting(default: Any = ..., *, doc: str, why: str = "", changes_result: bool = True, **limits: Any) -> Any:
    """One field: its default, what it means, why the default is what it is, and whether it changes the numbers
    (only those that do enter the run's fingerprint)."""
    extra: dict[str, Any] = {"why": why, "changes_result": changes_result}
    return Field(default, description=doc, json_schema_extra=extra, **limits)
