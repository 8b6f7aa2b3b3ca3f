"""How many rows are packed together: as many as TRL, but at least 128 packs and never more than memory should hold."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from job.prepare.batch import SplitBatch, split_batch
from job.prepare.pack import WINDOW_PACKS, WINDOW_ROWS, WINDOW_TOKENS
from job.prepare.shape import Shaped
from job.prepare.write import SplitWriter


def batch_of(lengths: Iterable[int]) -> SplitBatch:
    ids = {length: np.ones(length, dtype=np.int32) for length in set(lengths)}
    rows = [Shaped((ids[length], ids[length]), length, length, length) for length in lengths]
    return split_batch("sft", rows, range(len(rows)))


def rows_of(count: int, length: int) -> SplitBatch:
    return batch_of([length] * count)


@pytest.mark.parametrize(
    ("count", "length", "max_length", "packing", "windows"),
    [
        (2 * WINDOW_ROWS, 300, 1024, True, 2),  # a thousand rows fill 300 packs: TRL's window
        (2 * WINDOW_ROWS, 100, 2048, True, 1),  # they fill 50 packs: more of them are packed together
        (2 * WINDOW_ROWS, 100, 2048, False, 2),
        (4, WINDOW_TOKENS // 2, WINDOW_TOKENS // 2, True, 2),  # two rows are all that should stand in memory
    ],
)
def test_a_window_is_as_large_as_it_should_be(tmp_path: Path, count, length, max_length, packing, windows):
    with SplitWriter(tmp_path / "rows.arrow", max_length, packing) as writer:
        writer.add(rows_of(count, length))

    batches = list(pa.ipc.open_stream(tmp_path / "rows.arrow"))
    assert len(batches) == windows
    assert sum(len(items) for batch in batches for items in batch["input_ids"].to_numpy(False)) == count * length
    assert writer.stats.rows == count
    assert writer.stats.sequences == sum(batch.num_rows for batch in batches)
    assert WINDOW_PACKS * 2048 > 100 * WINDOW_ROWS  # what the second case is about


def test_the_distribution_of_lengths_is_told_in_steps_of_five_percent(tmp_path: Path):
    with SplitWriter(tmp_path / "rows.arrow", 128, packing=False) as writer:
        writer.add(batch_of(range(1, 102)))

    assert writer.stats.lengths == tuple(range(1, 102, 5))


def test_one_row_is_every_quantile_and_no_row_is_none(tmp_path: Path):
    for count, expected in ((1, (7,) * 21), (0, ())):
        with SplitWriter(tmp_path / "rows.arrow", 128, packing=False) as writer:
            writer.add(rows_of(count, 7))
        assert writer.stats.lengths == expected
