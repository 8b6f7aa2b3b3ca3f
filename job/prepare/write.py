"""Token rows to an Arrow stream that every rank maps: ``input_ids``, ``labels`` and, when packed, ``seq_lengths``."""

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa

from job.prepare.pack import WINDOW, pack
from job.prepare.tokenize import IGNORED, Tokens
from job.records import SplitStats

_TOKENS = pa.list_(pa.int32())


class SplitWriter:
    """Cuts rows to *max_length*, drops those with nothing left to learn, packs if asked, writes, and counts."""

    def __init__(self, path: Path, max_length: int, packing: bool) -> None:
        self._max_length = max_length
        self._packing = packing
        fields = [("input_ids", _TOKENS), ("labels", _TOKENS)] + ([("seq_lengths", _TOKENS)] if packing else [])
        self._schema = pa.schema(fields)
        self._writer = pa.ipc.new_stream(str(path), self._schema)
        self._window: list[Tokens] = []
        self._counts = dict.fromkeys(SplitStats.model_fields, 0)

    def add(self, row: Tokens) -> None:
        if (kept := self._cut(row)) is not None:
            self._window.append(kept)
        if len(self._window) == WINDOW:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()
        self._writer.close()

    @property
    def stats(self) -> SplitStats:
        return SplitStats(**self._counts)

    def _cut(self, row: Tokens) -> Tokens | None:
        cut = Tokens(row.input_ids[: self._max_length], row.labels[: self._max_length])
        trained = int((cut.labels != IGNORED).sum())
        self._counts["truncated_rows"] += len(row.input_ids) > self._max_length
        self._counts["truncated_tokens"] += len(row.input_ids) - len(cut.input_ids)
        if not trained:
            self._counts["dropped_rows"] += 1
            self._counts["dropped_tokens"] += len(cut.input_ids)
            return None
        self._counts["rows"] += 1
        self._counts["tokens"] += len(cut.input_ids)
        self._counts["trained_tokens"] += trained
        self._counts["max_tokens"] = max(self._counts["max_tokens"], len(cut.input_ids))
        return cut

    def _flush(self) -> None:
        rows, self._window = self._window, []
        if not rows:
            return
        groups = pack([len(row.input_ids) for row in rows], self._max_length) if self._packing else _alone(rows)
        ordered = [rows[index] for group in groups for index in group]
        sizes = [sum(len(rows[index].input_ids) for index in group) for group in groups]
        columns = [_lists(sizes, [row.input_ids for row in ordered]), _lists(sizes, [row.labels for row in ordered])]
        if self._packing:
            lengths = np.array([len(row.input_ids) for row in ordered], dtype=np.int32)
            columns.append(_lists([len(group) for group in groups], [lengths]))
        self._writer.write_batch(pa.record_batch(columns, schema=self._schema))
        self._counts["sequences"] += len(groups)


def _alone(rows: list[Tokens]) -> list[list[int]]:
    return [[index] for index in range(len(rows))]


def _lists(sizes: list[int], values: list[np.ndarray]) -> pa.Array:
    """A list array whose items have *sizes* elements, taken one after the other from *values*."""
    offsets = np.cumsum([0, *sizes], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(values)))
