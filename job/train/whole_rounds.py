"""Every step of the same rows, however many processes share them: at the end of an epoch nothing is trained twice."""

from collections.abc import Iterator
from typing import Any

from datasets import Dataset, concatenate_datasets
from torch.utils.data import BatchSampler, DataLoader

_IGNORED = -100  # torch's cross-entropy leaves such labels out
_TOKENS = 2  # of the filler: enough for a next token to predict, had it a label


class WholeRounds(BatchSampler):
    """The batches of *inner*, filled up with the row *filler* until each process has as many, all of one size.

    Accelerate would fill up with rows from the epoch's beginning (`BatchSamplerShard`, ``even_batches``), of which more
    processes need more; they would be trained twice, and the step would be another one.
    """

    def __init__(self, inner: BatchSampler, num_processes: int, filler: int) -> None:
        self._inner, self._num_processes, self._filler = inner, num_processes, filler
        # Where accelerate looks for them: the sampler is told the epoch.
        self.sampler, self.batch_size, self.drop_last = inner.sampler, inner.batch_size, False

    def __iter__(self) -> Iterator[list[int]]:
        count = 0
        for batch in self._inner:
            yield batch + [self._filler] * (self.batch_size - len(batch))
            count += 1
        for _ in range(-count % self._num_processes):
            yield [self._filler] * self.batch_size

    def __len__(self) -> int:
        return -(-len(self._inner) // self._num_processes) * self._num_processes


def fill_rounds(loader: DataLoader[Any], num_processes: int, filler: int) -> None:
    """Have *loader*, which accelerate has prepared for *num_processes*, draw *filler* where rows are missing."""
    shard: Any = loader.batch_sampler
    shard.batch_sampler = WholeRounds(shard.batch_sampler, num_processes, filler)


def with_filler(rows: Dataset) -> Dataset:
    """*rows* and behind them one in which no token is trained: it adds nothing to a loss that is a mean over trained
    tokens. The first of them in short, so that it has all their columns."""
    filler = {name: values[:_TOKENS] for name, values in rows[0].items()}
    filler["labels"] = [_IGNORED] * len(filler["input_ids"])
    if "seq_lengths" in filler:
        filler["seq_lengths"] = [len(filler["input_ids"])]
    return concatenate_datasets([rows, Dataset.from_list([filler], features=rows.features)])
