"""How a run ended."""

from typing import Any

from job.records.base import Record


class Outcome(Record):
    """How a run ended: the last line of stdout, ``/dev/termination-log`` and ``attempts/NNNN/outcome.json``."""

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
        return {"code": fields.pop("code"), "class": fields.pop("error_class"), **fields}
