"""Token rows to an Arrow stream that every rank maps: ``input_ids``, ``labels``, when packed ``seq_lengths``, and of
prompts the texts that stand beside them."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa

from job.prepare.batch import SplitBatch
from job.prepare.encode import IGNORED, Tokens
from job.prepare.pack import WINDOW_PACKS, WINDOW_ROWS, WINDOW_TOKENS, pack
from job.records import SplitStats

# Steps in which the distribution of lengths is told: enough to foresee the padding of a batch within a few percent.
QUANTILES = 20
_TOKENS = pa.list_(pa.int32())


class SplitWriter:
    """Packs rows of at most *max_length* tokens if asked, writes and counts them."""

    def __init__(self, path: Path, max_length: int, packing: bool, texts: tuple[str, ...] = ()) -> None:
        """*texts* are the names of those that stand beside each row's tokens."""
        self._max_length = max_length
        self._packing = packing
        fields = [("input_ids", _TOKENS), ("labels", _TOKENS)] + ([("seq_lengths", _TOKENS)] if packing else [])
        self._schema = pa.schema(fields + [(name, pa.string()) for name in texts])
        self._texts: list[tuple[str | None, ...]] = []
        self._writer = pa.ipc.new_stream(str(path), self._schema)
        self._window: list[Tokens] = []
        self._window_tokens = 0
        self._counts = dict.fromkeys(set(SplitStats.model_fields) - {"lengths"}, 0)
        self._rows_of_length = np.zeros(max_length + 1, dtype=np.int64)

    def add(self, batch: SplitBatch) -> None:
        self._count(batch)
        self._texts += batch.texts
        ends = np.cumsum(batch.lengths)
        for begin, end in zip(ends - batch.lengths, ends, strict=True):
            self._window.append(Tokens(batch.input_ids[begin:end], batch.labels[begin:end]))
            self._window_tokens += int(end - begin)
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
        for name in ("truncated_rows", "truncated_tokens", "dropped_rows", "dropped_tokens"):
            counts[name] += getattr(batch, name)
        counts["rows"] += len(batch.lengths)
        counts["tokens"] += len(batch.input_ids)
        counts["trained_tokens"] += int((batch.labels != IGNORED).sum())
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
        groups = pack([len(row.input_ids) for row in rows], self._max_length) if self._packing else _alone(rows)
        ordered = [rows[index] for group in groups for index in group]
        sizes = [sum(len(rows[index].input_ids) for index in group) for group in groups]
        columns = [_lists(sizes, [row.input_ids for row in ordered]), _lists(sizes, [row.labels for row in ordered])]
        if self._packing:
            lengths = np.array([len(row.input_ids) for row in ordered], dtype=np.int32)
            columns.append(_lists([len(group) for group in groups], [lengths]))
        texts, self._texts = self._texts[: len(rows)], self._texts[len(rows) :]
        columns += [_strings(column) for column in zip(*texts, strict=True)]
        self._writer.write_batch(pa.record_batch(columns, schema=self._schema))
        self._counts["sequences"] += len(groups)


def _alone(rows: list[Tokens]) -> list[list[int]]:
    return [[index] for index in range(len(rows))]


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
