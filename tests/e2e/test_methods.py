"""Methods of preferences through the real entrypoint."""

import json
from pathlib import Path

from tests.e2e.job import run


def test_dpo_publishes_an_adapter_with_the_margins_that_it_has_reached(env, rows, tmp_path):
    known = [json.loads(line) for line in rows.read_text().splitlines()]
    pairs = tmp_path / "pairs.jsonl"
    with pairs.open("w") as file:
        for row, other in zip(known, [*known[1:], known[0]], strict=True):
            file.write(json.dumps({"asked": row["question"], "good": row["answer"], "bad": other["answer"]}) + "\n")

    ended = run(
        env
        | {
            "JOB_METHOD": "dpo",
            "JOB_DATASET_URI": str(pairs),
            "JOB_COLUMNS": "prompt=asked,chosen=good,rejected=bad",
            "JOB_EVAL_FRACTION": "0.2",
        }
    )

    assert ended.code == 0, ended.shown
    output = Path(env["JOB_OUTPUT_URI"])
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["method"] == "dpo"
    assert metrics["data"]["format"] == "preference"
    assert "rewards/margins" in metrics["train"]["history"][-1]["values"]
    assert "eval_rewards/accuracies" in metrics["eval"]["history"][-1]["values"]
    assert metrics["eval"]["perplexity"] is None
    assert (output / "manifest.json").exists()
    assert "margins" in (output / "report.html").read_text()


def test_rows_of_another_method_are_refused_with_the_columns_that_it_needs(env):
    ended = run(env | {"JOB_METHOD": "dpo"})

    assert ended.code == 65
    assert "JOB_METHOD=dpo cannot learn from; it needs 'preference'" in ended.outcome["cause"]
    assert "chosen=better,rejected=worse" in ended.outcome["fix"]
