"""The data gate: what is wrong with the rows, counted, and what is too wrong to train on.

A refusal names what it found; the operator overrides it by its name in ``JOB_ALLOW``.
"""

from array import array
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from job.errors import BadData
from job.prepare.formats import Chat, Example
from job.records import Findings, GateSettings, SplitStats

SHOWN = 20  # problems that are printed and kept
MAX_TRUNCATED = 0.5  # share of rows cut at max_length above which a set is refused


class Gate:
    """Counts problems row by row, and *conversations*; one instance sees every row of a run."""

    def __init__(self, settings: GateSettings) -> None:
        self._settings = settings
        self._bad: list[BadData] = []
        self._bad_rows = self._rows = self.conversations = 0
        self._oddities: Counter[str] = Counter()
        # Hashes of rows, 8 bytes each, by split: train and eval.
        self._hashes = {False: array("Q"), True: array("Q")}

    def bad_row(self, problem: BadData) -> None:
        """A row that cannot be used."""
        self._rows += 1
        self._bad_rows += 1
        if len(self._bad) < SHOWN:
            self._bad.append(problem)

    def good_row(self, example: Example, content: int, is_eval: bool) -> None:
        """A row that can be used; *content* is 64 bits of its content."""
        self._rows += 1
        self._hashes[is_eval].append(content)
        if isinstance(example, Chat):
            self.conversations += 1
            self._oddities.update(_oddities(example))

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

    def judge_tokens(self, train: SplitStats, max_length: int, end_of_turn_trained: bool) -> None:
        """Once every row has been tokenized.

        Raises:
            BadData: the rows cannot teach what they should; the message names the override.
        """
        seen = train.rows + train.dropped_rows
        if train.truncated_rows > MAX_TRUNCATED * seen:
            self._refuse(
                "truncation",
                f"{train.truncated_rows:,} of {seen:,} rows are cut at {max_length} tokens, so most answers "
                "would be learned without their end.",
                "Raise JOB_MAX_LENGTH, as far as the model goes, or shorten the rows",
            )
        if train.dropped_rows > self._settings.max_bad_fraction * seen:
            self._refuse(
                "nothing_to_learn",
                f"{train.dropped_rows:,} of {seen:,} rows have nothing to learn within {max_length} tokens.",
                "Raise JOB_MAX_LENGTH, as far as the model goes, or shorten the prompts",
            )
        if not end_of_turn_trained:
            self._refuse(
                "untrained_end",
                "The chat template leaves the end-of-turn token out of what is trained, or ends turns with what is no "
                "token, so the model would never learn to stop.",
                "Set JOB_CHAT_TEMPLATE to chatml, plain or another that ends the assistant's turn inside its markers",
            )

    def findings(self) -> Findings:
        """Everything that was counted."""
        train, held_out = (np.frombuffer(self._hashes[split], dtype=np.uint64) for split in (False, True))
        unique = np.unique(train)
        return Findings(
            bad_rows=self._bad_rows,
            first_bad_rows=tuple(str(problem) for problem in self._bad),
            duplicate_rows=len(train) - len(unique),
            rows_in_train_and_eval=int(np.isin(held_out, unique).sum()),
            oddities=dict(sorted(self._oddities.items())),
        )

    def _refuse(self, name: str, cause: str, fix: str) -> None:
        if name not in self._settings.allow:
            raise BadData(cause, f"{fix}, or accept it with JOB_ALLOW={name}.")

    def _all_bad_rows(self, verdict: str) -> BadData:
        if self._bad_rows == 1:
            return BadData(self._bad[0].cause, self._bad[0].fix)
        shown = "\n".join(f"  - {problem}" for problem in self._bad)
        more = f"\n  and {self._bad_rows - SHOWN} more" if self._bad_rows > SHOWN else ""
        return BadData(f"{self._bad_rows:,} rows cannot be used:\n{shown}{more}\n", verdict)


def _oddities(chat: Chat) -> Iterable[str]:
    """What is unusual about a conversation without making it useless."""
    roles = [message["role"] for message in chat.messages]
    if "system" in roles[1:]:
        yield "system turn after the first"
    talk = [role for role in roles if role not in ("system", "developer", "tool")]
    if any(one == two for one, two in pairwise(talk)) and "tool" not in roles:
        yield "the same role twice in a row"
    if talk and talk[0] == "assistant":
        yield "begins with the assistant"
    if roles[-1] != "assistant":
        yield "ends without an answer"
    if any(not message.get("content", "").strip() and not message.get("tool_calls") for message in chat.messages):
        yield "empty turn"
