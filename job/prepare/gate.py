"""The data gate: what is wrong with the rows, counted, and what is too wrong to train on.

A refusal names what it found; the operator overrides it by its name in ``JOB_ALLOW``.
"""

from array import array
from collections import Counter
from collections.abc import Iterable

import numpy as np

from job.errors import BadData
from job.prepare.batch import Batch
from job.prepare.turns import Taught
from job.records import Findings, GateSettings, PrepareTask, SplitStats

SHOWN = 20  # problems that are printed and kept
MAX_TRUNCATED = 0.5  # share of rows cut at max_length above which a set is refused


class Gate:
    """Counts problems row by row, and *conversations*; one instance sees every row of a run."""

    def __init__(self, settings: GateSettings) -> None:
        self._settings = settings
        self._bad: list[BadData] = []
        self._bad_rows = self._rows = self.conversations = 0
        self._oddities: Counter[str] = Counter()
        # 64 bits of each row's content, of train and of eval.
        self._hashes = array("Q"), array("Q")

    def add(self, batch: Batch) -> None:
        """Take note of rows; the order of batches is that of the rows."""
        self._rows += batch.rows
        self._bad_rows += len(batch.problems)
        self._bad += batch.problems[: SHOWN - len(self._bad)]
        self._oddities += batch.oddities
        self.conversations += batch.conversations
        for hashes, split in zip(self._hashes, (batch.train, batch.eval), strict=True):
            hashes.frombytes(split.contents.tobytes())

    def judge_rows(self) -> None:
        """Once every row has been read.

        Raises:
            BadData: rows that cannot be used, and the settings do not skip them or there are too many.
        """
        if not self._bad_rows:
            return
        share = self._bad_rows / self._rows
        if self._settings.bad_rows == "fail":
            raise self._all_bad_rows("Mend them, or set JOB_BAD_ROWS=skip.")
        if share > self._settings.max_bad_fraction:
            raise self._all_bad_rows(
                f"That is {share:.1%} of all rows, more than JOB_MAX_BAD_FRACTION={self._settings.max_bad_fraction:g}."
            )

    def judge_tokens(self, train: SplitStats, task: PrepareTask) -> None:
        """Once every row has been tokenized.

        Raises:
            BadData: the rows cannot teach what they should; the message names the override.
        """
        seen = train.rows + train.dropped_rows
        if train.truncated_rows > MAX_TRUNCATED * seen:
            self._refuse(
                "truncation",
                f"{train.truncated_rows:,} of {seen:,} rows are cut at {task.max_length} tokens, so most answers "
                "would be learned without their end.",
                f"{longer(task)}shorten the rows",
            )
        if train.dropped_rows > self._settings.max_bad_fraction * seen:
            left = "have nothing to learn within"
            if task.method == "reward":
                left = "hold an answer, with its prompt, of more than"
            self._refuse(
                "nothing_to_learn",
                f"{train.dropped_rows:,} of {seen:,} rows {left} {task.max_length} tokens.",
                f"{longer(task)}shorten the prompts",
            )

    def judge_labels(self, train: SplitStats, task: PrepareTask) -> None:
        """Once every row has been seen, for a method that learns from labels.

        Raises:
            BadData: all rows have the same one.
        """
        if task.method == "kto" and train.good_rows in (0, train.rows):
            kind, other = ("good", "bad") if train.good_rows else ("bad", "good")
            raise BadData(
                f"All {train.rows:,} rows are of {kind} answers, and JOB_METHOD=kto learns from both kinds.",
                f"Add rows of {other} answers, or set JOB_COLUMNS=label=… to the column that tells them apart.",
            )

    def judge_turns(self, taught: Taught) -> None:
        """What rows with 'messages' teach under the chat template.

        Raises:
            BadData: the model would not learn to answer and then stop; the message names the override.
        """
        if not all(taught.end_of_turn):
            self._refuse(
                "untrained_end",
                "The chat template leaves the end-of-turn token out of what is trained, or ends turns with what is no "
                "token, so the model would never learn to stop.",
                "Set JOB_CHAT_TEMPLATE to chatml, plain or another that ends the assistant's turn inside its markers",
            )
        if taught.question:
            self._refuse(
                "trained_prompt",
                "The chat template of JOB_MODEL marks the user's turns too, so the model would learn to ask.",
                "Set JOB_CHAT_TEMPLATE to one that marks the assistant's turns alone",
            )

    def findings(self) -> Findings:
        """Everything that was counted."""
        train, held_out = (np.frombuffer(hashes, dtype=np.uint64) for hashes in self._hashes)
        train.sort()  # in place: a set of so many hashes would take ten times their memory
        places = np.searchsorted(train, held_out, side="right") - 1
        found = places[places >= 0]
        return Findings(
            bad_rows=self._bad_rows,
            first_bad_rows=tuple(str(problem) for problem in self._bad),
            duplicate_rows=int((train[1:] == train[:-1]).sum()),
            rows_in_train_and_eval=int((train[found] == held_out[places >= 0]).sum()),
            oddities=dict(sorted(self._oddities.items())),
        )

    def _refuse(self, name: str, cause: str, fix: str) -> None:
        if name not in self._settings.allow:
            raise BadData(cause, f"{fix}, or accept it with JOB_ALLOW={name}.")

    def _all_bad_rows(self, verdict: str) -> BadData:
        if self._bad_rows == 1:
            return BadData(self._bad[0].cause, self._bad[0].fix)
        more = f"\n  and {self._bad_rows - SHOWN:,} more" if self._bad_rows > SHOWN else ""
        return BadData(f"{self._bad_rows:,} rows cannot be used:\n{_by_reason(self._bad)}{more}\n", verdict)


def longer(task: PrepareTask) -> str:
    """The first half of an advice for rows that are cut: what the model allows."""
    if task.model_max_length is None:
        return "Raise JOB_MAX_LENGTH, or "
    if task.model_max_length > task.max_length:
        return f"Raise JOB_MAX_LENGTH, which this model lets go up to {task.model_max_length}, or "
    return f"JOB_MODEL reads no more than {task.model_max_length} tokens: take another, or "


def _by_reason(problems: Iterable[BadData]) -> str:
    """One line for the rows that have the same problem."""
    rows: dict[str, list[str]] = {}
    for problem in problems:
        where, _, reason = str(problem).partition(": ")
        rows.setdefault(reason, []).append(where)
    return "\n".join(f"  - {', '.join(where)}: {reason}" for reason, where in rows.items())
