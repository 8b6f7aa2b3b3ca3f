"""Tokenized answers as the rows that a method's trainer takes, cut to max_length as TRL's trainers cut them.

A row holds every token that the trainer needs, and it tokenizes nothing itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from job.prepare.encode import IGNORED, Tokens

# By method, in the order in which they are written; `label` is a flag, the others lists of tokens.
COLUMNS: dict[str, tuple[str, ...]] = {
    "sft": ("input_ids", "labels"),
    "dpo": ("prompt_ids", "chosen_ids", "rejected_ids"),
    "kto": ("prompt_ids", "completion_ids", "label"),
    "reward": ("chosen_ids", "rejected_ids"),
    # Prompts, whose texts stand beside them (job/prepare/prompts.py).
    "rloo": ("input_ids", "labels"),
    "grpo": ("input_ids", "labels"),
}
FLAG = "label"


@dataclass(frozen=True)
class Shaped:
    """One row after the cut.

    Attributes:
        columns: as in `COLUMNS`; None where nothing is left to learn.
        tokens: that pass through the model, a prompt once for each answer; *trained* of them carry loss.
        longest: tokens of its longest sequence.
        cut: tokens cut off.
    """

    columns: tuple[NDArray[np.int32], ...] | None
    tokens: int
    trained: int
    longest: int
    cut: int = 0


def shape(method: str, answers: Sequence[Tokens], is_good: bool | None, max_length: int) -> list[Shaped]:
    """The rows of one example: its *answers* are one, or the chosen and the rejected one. *is_good* of a judged one."""
    match method:
        case "dpo":
            return [_pair(answers, max_length)]
        case "reward":
            return [_scored(answers, max_length)]
        case "kto":
            labels = (True, False) if is_good is None else (is_good,)
            return [_judged(answer, label, max_length) for answer, label in zip(answers, labels, strict=True)]
        case _:
            return [_learned(answers[0], max_length)]


def _learned(row: Tokens, max_length: int) -> Shaped:
    ids, labels = row.input_ids[:max_length], row.labels[:max_length]
    trained = int((labels != IGNORED).sum())
    return Shaped((ids, labels) if trained else None, len(ids), trained, len(ids), len(row.input_ids) - len(ids))


def _pair(answers: Sequence[Tokens], max_length: int) -> Shaped:
    """The prompt ends where the first of the two answers begins (trl 1.16, DPOTrainer._prepare_dataset)."""
    prompt = min(map(_prompt_length, answers))
    whole = [answer.input_ids for answer in answers]
    better, worse = (ids[:max_length] for ids in whole)
    tokens = len(better) + len(worse)
    learns = prompt < min(len(better), len(worse)) and not np.array_equal(better, worse)
    return Shaped(
        columns=(better[:prompt], better[prompt:], worse[prompt:]) if learns else None,
        tokens=tokens,
        trained=max(0, tokens - 2 * prompt),
        longest=max(len(better), len(worse)),
        cut=sum(map(len, whole)) - tokens,
    )


def _judged(answer: Tokens, label: bool, max_length: int) -> Shaped:
    prompt, ids = _prompt_length(answer), answer.input_ids[:max_length]
    flag = np.array([label], dtype=np.int32)
    return Shaped(
        columns=(ids[:prompt], ids[prompt:], flag) if prompt < len(ids) else None,
        tokens=len(ids),
        trained=max(0, len(ids) - prompt),
        longest=len(ids),
        cut=len(answer.input_ids) - len(ids),
    )


def _scored(answers: Sequence[Tokens], max_length: int) -> Shaped:
    """The score is read at the end, so what is too long is left out and never cut, as upstream does."""
    better, worse = (answer.input_ids for answer in answers)
    longest, tokens = max(len(better), len(worse)), len(better) + len(worse)
    trained = sum(len(row.input_ids) - _prompt_length(row) for row in answers)
    learns = longest <= max_length and not np.array_equal(better, worse)
    return Shaped((better, worse) if learns else None, tokens, trained, longest)


def _prompt_length(answer: Tokens) -> int:
    """Tokens before the first that carries loss."""
    trained = np.flatnonzero(answer.labels != IGNORED)
    return int(trained[0]) if trained.size else len(answer.labels)
