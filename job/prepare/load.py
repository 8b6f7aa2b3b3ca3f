"""The tokenizer of JOB_MODEL with the chat template that renders its rows."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from job.chat_template import DEFAULT, OWN, adopt
from job.errors import BadData
from job.prepare.limits import limited_memory
from job.prepare.template import ChatTemplate
from job.prepare.turns import Taught, what_is_taught
from job.records import ChatTemplateChoice

OTHER_TEMPLATE = "Set JOB_CHAT_TEMPLATE to another."


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer, which chat template it was given, and what a short conversation showed of that one."""

    tokenizer: Any  # a fast one of transformers
    chat_template: ChatTemplateChoice
    template: ChatTemplate
    tool_template: ChatTemplate  # for rows with tools
    taught: Taught


def load_tokenizer(
    folder: Path, chosen: ChatTemplateChoice | None, template_time: datetime | None = None
) -> LoadedTokenizer:
    """The tokenizer in *folder* with the template *chosen*, else its own, else the default. A template that asks for
    the date gets *template_time*, or else the present.

    Raises:
        BadData: it has no end token, and the template brings none; or it is of a kind that cannot serve.
    """
    # Not the fast class directly: some classes, Llama's among them, take the vocabulary from tokenizer.json but make
    # rules of their own, and whoever uses the adapter will load the tokenizer like this.
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise BadData(
            f"The tokenizer of JOB_MODEL is a {type(tokenizer).__name__}, which is not of the tokenizers library.",
            "Use a model whose tokenizer is.",
        )
    told = template_time or datetime.now()
    loaded = _with_template(tokenizer, chosen or (OWN if tokenizer.chat_template else DEFAULT), told)
    end = loaded.taught.end_of_turn[1]  # what the model will write to stop
    if chosen and end not in ("", tokenizer.eos_token):
        loaded = _with_template(tokenizer, chosen.model_copy(update={"eos_token": end}), told)
    if loaded.chat_template != OWN and tokenizer.eos_token is None:
        raise BadData(
            "The tokenizer of JOB_MODEL has no eos_token, so the model could not learn to stop.",
            "Set JOB_CHAT_TEMPLATE=chatml, which brings one.",
        )
    return loaded


def whose(choice: ChatTemplateChoice) -> str:
    """How a message names the template of *choice*."""
    return "of JOB_MODEL" if choice == OWN else str(choice)


def _with_template(tokenizer: Any, choice: ChatTemplateChoice, told: datetime) -> LoadedTokenizer:
    adopt(tokenizer, choice)
    source, tool_source = _source(tokenizer, None), _source(tokenizer, [{}])
    special, added = tokenizer.special_tokens_map, tokenizer.added_tokens_encoder
    with limited_memory():
        template = ChatTemplate(source, special, added, told)
        tool_template = template if tool_source == source else ChatTemplate(tool_source, special, added, told)
        return LoadedTokenizer(tokenizer, choice, template, tool_template, what_is_taught(template))


def _source(tokenizer: Any, tools: list[Any] | None) -> str:
    """Of several templates by name, the one for rows with *tools*, or without."""
    try:
        return str(tokenizer.get_chat_template(tools=tools))
    except ValueError as error:
        names = ", ".join(tokenizer.chat_template)
        raise BadData(
            f"The tokenizer of JOB_MODEL has the chat templates {names} and no default.",
            "Set JOB_CHAT_TEMPLATE to a .jinja file with one of them.",
        ) from error
