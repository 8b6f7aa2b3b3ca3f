"""Compare the base with the tuned model on held-out rows; exit 1 unless the base guesses and the tuned model knows.

python score.py BASE_DIR ADAPTER_DIR TEST_JSONL
"""

import argparse
import json
import logging
import sys
from pathlib import Path

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it looks for CPU kernels that nothing here uses

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

BATCH_SIZE = 100  # prompts
MAX_NEW_TOKENS = 4  # a label is one token, and one more ends the turn
BASE_AT_MOST = 0.45  # chance is 1/3
TUNED_AT_LEAST = 0.95


def read_rows(path: Path) -> tuple[list[str], list[str]]:
    """The sentences and the right answers."""
    rows = [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]
    return [row[0]["content"] for row in rows], [row[-1]["content"] for row in rows]


@torch.inference_mode()
def answer(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, sentences: list[str]) -> list[str]:
    """The model's greedy answers. *tokenizer* pads on the left, so that all answers begin in the same column."""
    answers: list[str] = []
    for start in range(0, len(sentences), BATCH_SIZE):
        chats = [[{"role": "user", "content": sentence}] for sentence in sentences[start : start + BATCH_SIZE]]
        batch = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
        )
        tokens = model.generate(**batch, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        answers += tokenizer.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in answers]


def accuracy(answers: list[str], labels: list[str]) -> float:
    """Share of exactly right answers."""
    return sum(answer == label for answer, label in zip(answers, labels, strict=True)) / len(labels)


def main() -> int:
    """Print the table and two rows that the models answer differently; return the exit status."""
    parser = argparse.ArgumentParser(description="Score a base model and its adapter.")
    for name in ("base_dir", "adapter_dir", "test_jsonl"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    disable_progress_bar()

    sentences, labels = read_rows(args.test_jsonl)
    tokenizer = AutoTokenizer.from_pretrained(args.base_dir, padding_side="left")
    base = AutoModelForCausalLM.from_pretrained(args.base_dir)
    base_answers = answer(base, tokenizer, sentences)
    tuned = PeftModel.from_pretrained(base, args.adapter_dir)
    tuned_answers = answer(tuned, tokenizer, sentences)

    base_score, tuned_score = accuracy(base_answers, labels), accuracy(tuned_answers, labels)
    print(f"model  accuracy on {len(labels)} held-out rows\nbase   {base_score:6.1%}\ntuned  {tuned_score:6.1%}")
    samples = zip(sentences, base_answers, tuned_answers, strict=True)
    for sentence, before, after in [sample for sample in samples if sample[1] != sample[2]][:2]:
        print(f"\n{sentence}\n  base:  {before}\n  tuned: {after}")
    return int(base_score > BASE_AT_MOST or tuned_score < TUNED_AT_LEAST)


if __name__ == "__main__":
    sys.exit(main())
