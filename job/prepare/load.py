"""The tokenizer of JOB_MODEL with the chat template that renders its rows."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from job.chat_template import DEFAULT, OWN, adopt
from job.errors import BadData
from job.prepare.limits import TooCostly, limited_memory
from job.prepare.template import ChatTemplate
from job.prepare.turns import end_tokens
from job.records import ChatTemplateChoice

OTHER_TEMPLATE = "Set JOB_CHAT_TEMPLATE to another."


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer, which chat template it was given, and what a short conversation showed of that one."""

    tokenizer: PreTrainedTokenizerFast
    chat_template: ChatTemplateChoice
    template: ChatTemplate
    end_of_turn: tuple[str, str]  # of an earlier turn and of the last one


def load_tokenizer(folder: Path, chosen: ChatTemplateChoice | None) -> LoadedTokenizer:
    """The tokenizer in *folder* with the template *chosen*, else its own, else the default.

    Raises:
        BadData: it has no end token, and the template brings none; or the template costs too much.
    """
    # The fast class directly: AutoTokenizer would import torch.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    loaded = _with_template(tokenizer, chosen or (OWN if tokenizer.chat_template else DEFAULT))
    end = loaded.end_of_turn[1]  # what the model will write to stop
    if chosen and end not in ("", tokenizer.eos_token):
        loaded = _with_template(tokenizer, chosen.model_copy(update={"eos_token": end}))
    if loaded.chat_template != OWN and tokenizer.eos_token is None:
        raise BadData(
            "The tokenizer of JOB_MODEL has no eos_token, so the model could not learn to stop.",
            "Set JOB_CHAT_TEMPLATE=chatml, which brings one.",
        )
    return loaded


def whose(choice: ChatTemplateChoice) -> str:
    """How a message names the template of *choice*."""
    return "of JOB_MODEL" if choice == OWN else str(choice)


def _with_template(tokenizer: PreTrainedTokenizerFast, choice: ChatTemplateChoice) -> LoadedTokenizer:
    adopt(tokenizer, choice)
    source, special = tokenizer.get_chat_template(), tokenizer.special_tokens_map
    try:
        with limited_memory():
            template = ChatTemplate(source, special, tokenizer.added_tokens_encoder)
            return LoadedTokenizer(tokenizer, choice, template, end_tokens(template))
    except TooCostly as limit:
        raise BadData(f"The chat template {whose(choice)} {limit} for a short conversation.", OTHER_TEMPLATE) from limit
