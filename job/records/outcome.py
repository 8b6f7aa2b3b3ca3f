"""How a run ended."""

import json
from typing import Any, Literal, Self

from job.records.base import Record


class Outcome(Record):
    """How a run ended: the last line of stdout, ``/dev/termination-log`` and ``attempts/NNNN/outcome.json``."""

    status: Literal["succeeded", "partial", "rejected", "interrupted", "failed"]
    code: int
    # `class` is Python's word; the JSON name is `class`.
    error_class: str
    phase: str
    cause: str
    fix: str
    last_durable_step: int | None
    attempt: int | None

    def to_json(self) -> dict[str, Any]:
        fields = self.model_dump(mode="json")
        head = {"status": fields.pop("status"), "code": fields.pop("code"), "class": fields.pop("error_class")}
        return head | fields

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Raises:
        ValueError: it is not an outcome.
        """
        fields = json.loads(data)
        if not isinstance(fields, dict):
            raise ValueError("not an outcome")
        return cls.model_validate({"error_class" if name == "class" else name: fields[name] for name in fields})
