"""One record of a source file."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One record as it stands in the file. *where* is ``name:line``, or ``name:row N`` where a file has no lines
    (JSON arrays, Parquet, Arrow); *size* is about how many bytes it takes."""

    where: str
    fields: dict[str, Any]
    size: int = field(default=0, compare=False)
