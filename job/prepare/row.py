"""One record of a source file."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One record as it stands in the file. *where* is ``name:line``, or ``name:row N`` where a file has no lines
    (JSON arrays, Parquet, Arrow)."""

    where: str
    fields: dict[str, Any]
