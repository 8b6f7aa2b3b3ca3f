"""Token rows to an Arrow stream that every rank maps: the columns of the method, when packed ``seq_lengths``, and of
prompts the texts that stand beside them."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa

from job.prepare.batch import SplitBatch
from job.prepare.pack import WINDOW_PACKS, WINDOW_ROWS, WINDOW_TOKENS, pack
from job.prepare.shape import COLUMNS, FLAG
from job.records import SplitStats

# Steps in which the distribution of lengths is told: enough to foresee the padding of a batch within a few percent.
QUANTILES = 20
_TOKENS = pa.list_(pa.int32())


class SplitWriter:
    """Packs rows of at most *max_length* tokens if asked, writes and counts them."""

    def __init__(
        self, path: Path, max_length: int, packing: bool, method: str = "sft", texts: tuple[str, ...] = ()
    ) -> None:
        """*texts* are the names of those that stand beside each row's tokens."""
        self._max_length = max_length
        self._packing = packing
        self._names = COLUMNS[method]
        fields = [(name, pa.bool_() if name == FLAG else _TOKENS) for name in self._names]
        fields += [("seq_lengths", _TOKENS)] if packing else []
        self._schema = pa.schema(fields + [(name, pa.string()) for name in texts])
        self._texts: list[tuple[str | None, ...]] = []
        self._writer = pa.ipc.new_stream(str(path), self._schema)
        self._window: list[tuple[np.ndarray, ...]] = []
        self._window_tokens = 0
        self._counts = dict.fromkeys(set(SplitStats.model_fields) - {"lengths"}, 0)
        self._rows_of_length = np.zeros(max_length + 1, dtype=np.int64)

    def add(self, batch: SplitBatch) -> None:
        self._count(batch)
        self._texts += batch.texts
        rows = zip(*(_rows(batch.columns[name], batch.sizes[name]) for name in self._names), strict=True)
        for row, length in zip(rows, batch.lengths.tolist(), strict=True):
            self._window.append(row)
            self._window_tokens += length
            if self._is_full():
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
        return SplitStats(**self._counts, lengths=self._quantiles())

    def _count(self, batch: SplitBatch) -> None:
        counts = self._counts
        for name in set(counts) - {"rows", "sequences", "max_tokens"}:
            counts[name] += getattr(batch, name)
        counts["rows"] += len(batch.lengths)
        counts["max_tokens"] = max(counts["max_tokens"], int(batch.lengths.max(initial=0)))
        self._rows_of_length += np.bincount(batch.lengths, minlength=self._max_length + 1)

    def _quantiles(self) -> tuple[int, ...]:
        """Lengths of the first row by length, of those at every 1/QUANTILES of the rows, and of the last."""
        reached = np.cumsum(self._rows_of_length)
        places = np.linspace(1, max(1, self._counts["rows"]), QUANTILES + 1)
        return tuple(map(int, np.searchsorted(reached, places))) if self._counts["rows"] else ()

    def _is_full(self) -> bool:
        enough = WINDOW_PACKS * self._max_length if self._packing else 0
        return self._window_tokens >= (enough if len(self._window) >= WINDOW_ROWS else WINDOW_TOKENS)

    def _flush(self) -> None:
        rows, self._window, self._window_tokens = self._window, [], 0
        if not rows:
            return
        groups = pack([len(row[0]) for row in rows], self._max_length) if self._packing else _alone(len(rows))
        columns = [_column(name, groups, [row[number] for row in rows]) for number, name in enumerate(self._names)]
        if self._packing:
            lengths = np.array([len(rows[index][0]) for group in groups for index in group], dtype=np.int32)
            columns.append(_lists([len(group) for group in groups], [lengths]))
        texts, self._texts = self._texts[: len(rows)], self._texts[len(rows) :]
        columns += [_strings(column) for column in zip(*texts, strict=True)]
        self._writer.write_batch(pa.record_batch(columns, schema=self._schema))
        self._counts["sequences"] += len(groups)


def _rows(values: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    return np.split(values, np.cumsum(sizes)[:-1]) if len(sizes) else []


def _alone(rows: int) -> list[list[int]]:
    return [[index] for index in range(rows)]


def _column(name: str, groups: list[list[int]], values: list[np.ndarray]) -> pa.Array:
    """*values* of the rows in *groups*, one item a group."""
    if name == FLAG:
        return pa.array([bool(value[0]) for value in values], type=pa.bool_())
    sizes = [sum(len(values[index]) for index in group) for group in groups]
    return _lists(sizes, [values[index] for group in groups for index in group])


def _lists(sizes: list[int], values: list[np.ndarray]) -> pa.Array:
    """A list array whose items have *sizes* elements, taken one after the other from *values*."""
    offsets, items = np.cumsum([0, *sizes], dtype=np.int32), np.concatenate(values)
    # From buffers: pa.array would import pandas, which takes longer than preparing a thousand rows.
    child = pa.Array.from_buffers(pa.int32(), len(items), [None, pa.py_buffer(items)])
    return pa.Array.from_buffers(_TOKENS, len(sizes), [None, pa.py_buffer(offsets)], children=[child])


def _strings(values: Sequence[str | None]) -> pa.Array:
    builder = pa.lib.StringBuilder()  # which needs no pandas either
    builder.append_values(values)
    return builder.finish()
