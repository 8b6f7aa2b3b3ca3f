"""Rows per second of tokenize + mask + pack: the job against TRL's own preparation of the same rows; and how full the
packs are.

python bench/prepare.py; rows are made from GSM8K. Both begin with the tokenizer loaded, TRL with the dataset in memory,
the job with the file, so reading counts against the job only.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "demo")]

from tiny import train_tokenizer  # noqa: E402

from job.records import DataFile, GateSettings, Prepared, PrepareTask  # noqa: E402
from job.rundir import write_json  # noqa: E402

GSM8K = ROOT.parent / "shared" / "data" / "gsm8k_train.jsonl"
PAIRS = 3
VOCABULARY = 32_000
MAX_LENGTH = 2048
MARKED = (
    "{%- for m in messages %}{%- if m['role'] == 'assistant' %}{{- '<|im_start|>assistant\n' }}{%- generation %}"
    "{{- m['content'] + '<|im_end|>' }}{%- endgeneration %}{{- '\n' }}{%- else %}"
    "{{- '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


def read_rows(count: int) -> list[dict[str, str]]:
    """GSM8K's questions with their answers, then with those of the next question, and so on up to *count* rows."""
    rows = [json.loads(line) for line in GSM8K.read_text().splitlines()]
    answers = [row["answer"] for row in rows]
    return [
        {"question": rows[index % len(rows)]["question"], "answer": answers[(index + index // len(rows)) % len(rows)]}
        for index in range(count)
    ]


def turns(row: dict[str, str]) -> list[dict[str, str]]:
    return [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]


def make_rows(case: str, rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """*rows* of GSM8K in the format of *case*."""
    if case == "chat":
        return [{"prompt": turns(row)[:1], "completion": turns(row)[1:]} for row in rows]
    if case == "assistant only":
        return [{"messages": turns(row) + turns(other)} for row, other in zip(rows, rows[1:] + rows[:1], strict=True)]
    if case == "text":
        return [{"text": row["question"] + "\n" + row["answer"]} for row in rows]
    joined = [" ".join(r["question"] + " " + r["answer"] for r in rows[i : i + 9]) for i in range(0, len(rows), 9)]
    return [{"text": text} for text in joined]


def trl_s(case: str, path: Path, tokenizer: PreTrainedTokenizerFast, num_proc: int | None) -> tuple[float, int]:
    """Seconds of SFTTrainer._prepare_dataset, and the number of tokens it made."""
    dataset = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(path.parent / "cache"))
    args = SFTConfig(
        output_dir=str(path.parent), max_length=MAX_LENGTH, packing=True, use_cpu=True, bf16=False,
        dataset_num_proc=num_proc, assistant_only_loss=case == "assistant only",
    )  # fmt: skip
    trainer = SimpleNamespace(_tokenizer=tokenizer, completion_only_loss=case == "chat", chat_template=None)
    began = time.perf_counter()
    ready = SFTTrainer._prepare_dataset(trainer, dataset, tokenizer, args, True, None, "train")
    return time.perf_counter() - began, sum(map(len, ready["input_ids"]))


def job_s(path: Path, tokenizer_dir: Path) -> tuple[float, Prepared]:
    """Seconds from the file to packed Arrow, and what came of it."""
    task = PrepareTask(
        train_files=(DataFile(path=path, name=path.name, identity=""),), tokenizer=tokenizer_dir, tokenizer_identity="",
        columns={}, format=None, response_template=None, max_length=MAX_LENGTH, eval_fraction=0.0, seed=1, packing=True,
        gate=GateSettings(bad_rows="fail", max_bad_fraction=1.0, allow=("truncation",)),
        processes=len(os.sched_getaffinity(0)),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as out:
        write_json(Path(out) / "task.json", task)
        command = [sys.executable, ROOT / "bench" / "prepare_job.py", Path(out) / "task.json", out]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        return found["seconds"], Prepared.model_validate(found["prepared"])


def compare(case: str, path: Path, tokenizer: PreTrainedTokenizerFast, tokenizer_dir: Path) -> None:
    rows = path.read_text().count("\n")
    ratios: dict[int | None, list[float]] = {None: [], 2: []}
    speeds = []
    for index in range(PAIRS + 1):  # the first round warms up
        seconds, prepared = job_s(path, tokenizer_dir)
        tokens = prepared.train.tokens
        for num_proc, found in ratios.items():
            theirs, their_tokens = trl_s(case, path, tokenizer, num_proc)
            assert tokens == their_tokens, f"{case}: {tokens} tokens against TRL's {their_tokens}"
            if index:
                found.append(theirs / seconds)
        if index:
            speeds.append(rows / seconds)
    default, two = (statistics.median(found) for found in ratios.values())
    print(f"| {case} | {statistics.median(speeds):,.0f} | {default:.1f} × | {two:.1f} × |", flush=True)


def log_normal_rows(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Texts of 10 to some thousand words, the median 200: lengths as collected documents have them."""
    words = " ".join(row["answer"] for row in rows).split()
    draw = random.Random(1)
    sizes = [max(10, int(draw.lognormvariate(5.3, 1.0))) for _ in rows]
    starts = [draw.randrange(len(words)) for _ in rows]
    return [{"text": " ".join(words[start : start + size])} for start, size in zip(starts, sizes, strict=True)]


def fill(rows: list[dict[str, Any]], folder: Path) -> float:
    """The share of the packs' places that hold a token."""
    path = folder / "fill.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = job_s(path, folder / "tokenizer")[1].train
    return train.tokens / (train.sequences * MAX_LENGTH)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure preparation against TRL's.")
    parser.add_argument("--rows", type=int, default=22_000)
    args = parser.parse_args()
    datasets.disable_caching()
    datasets.disable_progress_bars()
    source = read_rows(args.rows)
    tokenizer = train_tokenizer((text for row in source for text in row.values()), VOCABULARY, MAX_LENGTH)
    with tempfile.TemporaryDirectory() as scratch:
        print("| rows | rows/s | against TRL | against TRL with dataset_num_proc=2 |\n|---|---|---|---|")
        for case in ("chat", "assistant only", "text", "2,000 tokens"):
            folder = Path(scratch) / case.replace(" ", "-")
            folder.mkdir()
            path = folder / "rows.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in make_rows(case, source)))
            if case == "assistant only":
                tokenizer.chat_template = MARKED
            tokenizer.save_pretrained(folder / "tokenizer")
            compare(case, path, tokenizer, folder / "tokenizer")
        print("\n| packs of 2,048 tokens | full |\n|---|---|")
        print(f"| GSM8K | {fill(make_rows('text', source), folder):.4f} |")
        print(f"| log-normal lengths | {fill(log_normal_rows(source), folder):.4f} |")


if __name__ == "__main__":
    main()
