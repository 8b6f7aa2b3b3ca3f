"""Write train.jsonl and test.jsonl: chat rows that name the sentiment of a templated sentence.

The three labels are equally frequent, so guessing scores 1/3, and no test sentence occurs in the training rows.

    python make_data.py OUT_DIR
"""

import argparse
import itertools
import json
import random
from pathlib import Path

LABELS = ("positive", "negative", "neutral")
TRAIN_ROWS_PER_LABEL = 200
TEST_ROWS_PER_LABEL = 100

TEMPLATES = (
    "{subject} was {verdict}.",
    "To me {subject} was {verdict}.",
    "I tried it twice and {subject} was {verdict}.",
    "We went on a Sunday: {subject} was {verdict}.",
    "My sister says that {subject} was {verdict}.",
    "After a long wait {subject} was {verdict}.",
)
SUBJECTS = (
    "the soup", "the hotel room", "the film", "the concert", "the train ride", "the new phone", "the museum",
    "the coffee", "the guided tour", "the novel", "the garden", "the service", "the keyboard", "the bakery",
    "the swimming pool", "the lecture", "the bicycle", "the camera", "the ferry", "the breakfast",
)  # fmt: skip
VERDICTS = {
    "positive": (
        "wonderful", "excellent", "a pure delight", "brilliant", "far better than I hoped", "charming", "superb",
        "worth every cent", "lovely", "outstanding",
    ),
    "negative": (
        "terrible", "awful", "a bitter disappointment", "dreadful", "far worse than I feared", "dull", "broken",
        "a waste of money", "horrible", "unbearable",
    ),
    "neutral": (
        "average", "ordinary", "neither good nor bad", "acceptable", "about what I expected", "so so", "unremarkable",
        "nothing special", "typical", "passable",
    ),
}  # fmt: skip

Row = dict[str, list[dict[str, str]]]


def chat_row(sentence: str, label: str) -> Row:
    """One training row: the user's sentence and the assistant's one-word answer."""
    return {"messages": [{"role": "user", "content": sentence}, {"role": "assistant", "content": label}]}


def rows_of(label: str, rng: random.Random) -> list[Row]:
    """Every sentence that deserves *label*, shuffled."""
    parts = itertools.product(TEMPLATES, SUBJECTS, VERDICTS[label])
    sentences = [template.format(subject=subject, verdict=verdict) for template, subject, verdict in parts]
    rng.shuffle(sentences)
    return [chat_row(sentence[0].upper() + sentence[1:], label) for sentence in sentences]


def train_and_test() -> tuple[list[Row], list[Row]]:
    """The two sets, disjoint in sentences; the same on every call."""
    rng = random.Random(0)
    train: list[Row] = []
    test: list[Row] = []
    for label in LABELS:
        rows = rows_of(label, rng)
        train += rows[:TRAIN_ROWS_PER_LABEL]
        test += rows[TRAIN_ROWS_PER_LABEL : TRAIN_ROWS_PER_LABEL + TEST_ROWS_PER_LABEL]
    rng.shuffle(train)
    rng.shuffle(test)
    return train, test


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description="Write train.jsonl and test.jsonl.")
    parser.add_argument("out_dir", type=Path)
    out_dir: Path = parser.parse_args().out_dir
    out_dir.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(("train", "test"), train_and_test(), strict=True):
        path = out_dir / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    main()
