"""Make the demo's base model: it answers every sentence with a label, but at chance.

A model with random weights cannot be taught by LoRA alone, because its frozen head is noise. So this one first learns
the format of the rows with labels drawn at random: the form of an answer, and nothing about the sentiment.

    python make_base.py OUT_DIR
"""

import argparse
import random
from pathlib import Path

import torch
from make_data import LABELS, Row, chat_row, train_and_test
from tiny import random_llama, save, train_tokenizer
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

STEPS = 300
BATCH_SIZE = 32  # rows
LEARNING_RATE = 2e-3
HIDDEN_SIZE = 128
MAX_LENGTH = 512  # tokens; a row has about 20
VOCAB_SIZE = 1024  # more than the rows have words, so that each word is one token


def random_batch(sentences: list[str], rng: random.Random) -> list[Row]:
    """Rows whose labels say nothing about their sentences."""
    return [chat_row(sentence, rng.choice(LABELS)) for sentence in rng.sample(sentences, BATCH_SIZE)]


def render(tokenizer: PreTrainedTokenizerFast, rows: list[Row]) -> list[str]:
    """The rows as the model reads them."""
    return tokenizer.apply_chat_template([row["messages"] for row in rows], tokenize=False)


def pretrain(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, sentences: list[str], seed: int) -> None:
    """Next-token training over whole rows, freshly labelled at random in every step."""
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(1, STEPS + 1):
        batch = tokenizer(render(tokenizer, random_batch(sentences, rng)), padding=True, return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}/{STEPS}: loss {loss.item():.3f}")


def main() -> None:
    """Tokenizer, random weights, pretraining, files."""
    parser = argparse.ArgumentParser(description="Make a tiny base model that answers at chance.")
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.set_num_threads(1)  # at this size threads mostly wait for each other: 90 s instead of 15 s on busy cores
    rows, _ = train_and_test()
    texts = [message["content"] for row in rows for message in row["messages"]]
    tokenizer = train_tokenizer(["user\nassistant\n", *texts], VOCAB_SIZE, MAX_LENGTH)
    model = random_llama(tokenizer, HIDDEN_SIZE, args.seed)
    pretrain(model, tokenizer, [row["messages"][0]["content"] for row in rows], args.seed)
    save(model, tokenizer, args.out_dir)


if __name__ == "__main__":
    main()
