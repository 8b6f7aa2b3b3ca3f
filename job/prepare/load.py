"""The tokenizer of JOB_MODEL with the chat template that renders its rows."""

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from job.chat_template import DEFAULT, OWN, adopt
from job.errors import BadData
from job.prepare.template import ChatTemplate
from job.prepare.turns import end_tokens
from job.records import ChatTemplateChoice


def load_tokenizer(
    folder: Path, chosen: ChatTemplateChoice | None
) -> tuple[PreTrainedTokenizerFast, ChatTemplateChoice]:
    """The tokenizer in *folder* with the template *chosen*, else its own, else the default; and which one that is.

    Raises:
        BadData: it has no end token, and the template brings none.
    """
    # The fast class directly: AutoTokenizer would import torch.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    template = chosen or (OWN if tokenizer.chat_template else DEFAULT)
    adopt(tokenizer, template)
    if chosen and (end := _end_of_turn(tokenizer)) not in ("", tokenizer.eos_token):
        template = template.model_copy(update={"eos_token": end})
        adopt(tokenizer, template)
    if template != OWN and tokenizer.eos_token is None:
        raise BadData(
            "The tokenizer of JOB_MODEL has no eos_token, so the model could not learn to stop.",
            "Set JOB_CHAT_TEMPLATE=chatml, which brings one.",
        )
    return tokenizer, template


def _end_of_turn(tokenizer: PreTrainedTokenizerFast) -> str:
    """The token that ends the last turn, as a short conversation shows: what the model will write to stop."""
    source, special = tokenizer.get_chat_template(), tokenizer.special_tokens_map
    return end_tokens(ChatTemplate(source, special, tokenizer.added_tokens_encoder))[1]
