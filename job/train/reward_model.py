"""A trained reward model as a reward: what it scores is written as in its own training, by its own tokenizer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from job.errors import BadSpec
from job.records import Plan, RewardModel
from job.settings.online import REWARD_MODEL
from job.train.model import DTYPES


class RewardJudge:
    """Scores answers, by `Plan.per_device_train_batch_size` at a time. It is no part of the model that is trained, and
    stands whole on every rank."""

    __name__ = REWARD_MODEL  # by which TRL logs it

    def __init__(self, found: RewardModel, plan: Plan, device: torch.device) -> None:
        folder = found.adapter if _has_tokenizer(found.adapter) else found.base
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self._device, self._size = device, plan.per_device_train_batch_size
        model = AutoModelForSequenceClassification.from_pretrained(
            found.base, num_labels=1, dtype=DTYPES[plan.precision], use_safetensors=True, trust_remote_code=False
        )
        # As TRL's RewardTrainer does, since the score is read at the last token that is none of padding.
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        model.config.get_text_config().pad_token_id = self._tokenizer.pad_token_id
        if len(self._tokenizer) > model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(len(self._tokenizer), mean_resizing=False)
        adapted = PeftModel.from_pretrained(model, found.adapter) if found.adapter else model
        self._model = adapted.to(device).eval().requires_grad_(False)

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], messages: Sequence[str | None], **_: Any
    ) -> list[float]:
        """The score of each of *completions*, to *prompts* of text or to conversations (JSON in *messages*)."""
        ids = [self._ids(*row) for row in zip(prompts, completions, messages, strict=True)]
        return [score for at in range(0, len(ids), self._size) for score in self._scores(ids[at : at + self._size])]

    def _ids(self, prompt: str, completion: str, messages: str | None) -> list[int]:
        """What the reward model read of such an answer when it was trained: a conversation as its template writes it,
        a text with the end token."""
        tokenizer = self._tokenizer
        if messages is None:
            text = prompt + completion
            ended = text if text.endswith(tokenizer.eos_token) else text + tokenizer.eos_token
            return list(tokenizer(ended)["input_ids"])
        if tokenizer.chat_template is None:
            raise BadSpec(
                "JOB_REWARD_MODEL has no chat template, and the rows of JOB_DATASET_URI are conversations.",
                "Train it on conversations, or give prompts of text.",
            )
        whole = [*json.loads(messages), {"role": "assistant", "content": completion}]
        return list(tokenizer.apply_chat_template(whole, tokenize=True, return_dict=True)["input_ids"])

    @torch.inference_mode()
    def _scores(self, rows: Sequence[list[int]]) -> list[float]:
        batch = self._tokenizer.pad({"input_ids": list(rows)}, padding_side="right", return_tensors="pt")
        logits = self._model(**{name: batch[name].to(self._device) for name in ("input_ids", "attention_mask")}).logits
        scores: list[float] = logits[:, 0].float().tolist()
        return scores


def _has_tokenizer(adapter: Path | None) -> bool:
    return adapter is not None and (adapter / "tokenizer.json").exists()
