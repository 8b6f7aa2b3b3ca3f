"""Write pairs of a right and a wrong answer, for JOB_METHOD=reward, from rows with right answers.

    python make_pairs.py ROWS.jsonl PAIRS.jsonl [PREFERRED]

Rows have `question` and `answer`, as GSM8K has them, or `messages`. A wrong answer is the right one with another number
behind its `####`; where there is none, the answer of another row. With PREFERRED that answer is right for every row: a
taste that a tiny model can learn in a minute.
"""

import json
import random
import re
import sys
from pathlib import Path
from typing import Any

FINAL = re.compile(r"####\s*(-?[\d,]+)\s*$")


def question_and_answer(row: dict[str, Any]) -> tuple[list[dict[str, str]], str]:
    """The conversation up to the last answer, and that answer."""
    if "messages" in row:
        return row["messages"][:-1], row["messages"][-1]["content"]
    return [{"role": "user", "content": row["question"]}], row["answer"]


def wrong(answer: str, others: list[str], rng: random.Random) -> str:
    """An answer like *answer* that is wrong."""
    found = FINAL.search(answer)
    if not found:
        return rng.choice([other for other in others if other != answer])
    number = int(found[1].replace(",", ""))
    return f"{answer[: found.start()]}#### {number + rng.choice([-1, 1]) * rng.randint(1, max(2, abs(number)))}"


def main() -> None:
    source, target = map(Path, sys.argv[1:3])
    preferred = sys.argv[3] if len(sys.argv) > 3 else None
    rows = [question_and_answer(json.loads(line)) for line in source.read_text(encoding="utf-8").splitlines()]
    rng, answers = random.Random(0), sorted({answer for _, answer in rows})
    with target.open("w", encoding="utf-8") as file:
        for prompt, answer in rows:
            right = preferred or answer
            turns = {"chosen": right, "rejected": wrong(right, answers, rng)}
            pair = {name: [{"role": "assistant", "content": text}] for name, text in turns.items()}
            file.write(json.dumps({"prompt": prompt} | pair) + "\n")


if __name__ == "__main__":
    main()
