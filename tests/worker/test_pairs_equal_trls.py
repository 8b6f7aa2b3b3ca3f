"""Prepared pairs and judged answers against those of TRL's trainers, token for token."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trl import DPOTrainer, KTOTrainer, RewardTrainer

from tests.worker.kinds import write_kind
from tests.worker.side_by_side import Fields, dataset_of, load, ours

TRAINERS = {"dpo": DPOTrainer, "kto": KTOTrainer, "reward": RewardTrainer}
COLUMNS = {
    "dpo": ["prompt_ids", "chosen_ids", "rejected_ids"],
    "kto": ["prompt_ids", "completion_ids", "label"],
    "reward": ["chosen_ids", "rejected_ids"],
}
ASKED = ["Which one?", "And\nthen? ", "é ü <b>", "a " * 30]
BETTER = ["The first.", "Ünicode, and more: 1 + 1 = 2", "no", "word " * 25]
WORSE = ["The second.", "no", "Nothing at all, " * 9, "word " * 20 + "x"]


def user(text: str) -> Fields:
    return {"role": "user", "content": text}


def assistant(text: str) -> Fields:
    return {"role": "assistant", "content": text}


def pairs(kind: str) -> list[Fields]:
    texts = list(zip(ASKED, BETTER, WORSE, strict=True))
    match kind:
        case "strings":
            return [{"prompt": asked, "chosen": good, "rejected": bad} for asked, good, bad in texts]
        case "strings with a shared beginning":
            return [{"chosen": f"{asked}: {good}", "rejected": f"{asked}: {bad}"} for asked, good, bad in texts]
        case "conversations":
            return [
                {"prompt": [user(asked)], "chosen": [assistant(good)], "rejected": [assistant(bad)]}
                for asked, good, bad in texts
            ]
        case _:
            return [
                {"chosen": [user(asked), assistant(good)], "rejected": [user(asked), assistant(bad)]}
                for asked, good, bad in texts
            ]


KINDS = ["strings", "strings with a shared beginning", "conversations", "conversations with a shared beginning"]


def theirs(method: str, rows: list[Fields], tokenizer: Path, max_length: int) -> list[Fields]:
    processing_class = load(tokenizer)
    trainer = SimpleNamespace(_tokenizer=processing_class, calculate_KL=False, undesirable_weight=1, desirable_weight=1)
    args = SimpleNamespace(dataset_num_proc=None, max_length=max_length, truncation_mode="keep_start")
    prepared = TRAINERS[method]._prepare_dataset(trainer, dataset_of(rows), processing_class, args, "train")
    rows = [cut(method, row, max_length) for row in prepared.select_columns(COLUMNS[method]).to_list()]
    return [row for row in rows if tells_them_apart(row)]


def cut(method: str, row: Fields, max_length: int) -> Fields:
    """As the collators cut what is put together behind the prompt."""
    if method == "reward":
        return row
    answers = [name for name in COLUMNS[method] if name not in ("prompt_ids", "label")]
    return row | {name: row[name][: max_length - len(row["prompt_ids"])] for name in answers}


def tells_them_apart(row: Fields) -> bool:
    """Upstream keeps pairs that are equal after the cut, of which the loss has no gradient."""
    return "chosen_ids" not in row or row["chosen_ids"] != row["rejected_ids"]


def in_any_order(rows: list[Fields]) -> list[Any]:
    return sorted((list(row.items()) for row in rows), key=repr)


@pytest.mark.parametrize("tokenizer", ["llama3", "llama2 first"])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_every_method_are_equal(tmp_path, tokenizer, kind):
    rows, folder = pairs(kind), write_kind(tmp_path, tokenizer)

    for method in TRAINERS:
        for max_length in (400, 60):
            expected = theirs(method, rows, folder, max_length)
            assert in_any_order(ours(rows, folder, max_length, method=method)) == in_any_order(expected), method
            assert expected


def test_judged_answers_are_equal(tmp_path):
    folder = write_kind(tmp_path, "llama3")
    rows = [
        {"prompt": asked, "completion": answer, "label": label}
        for texts, label in ((BETTER, True), (WORSE, False))
        for asked, answer in zip(ASKED, texts, strict=True)
    ]

    assert ours(rows, folder, method="kto") == theirs("kto", rows, folder, 4096)
