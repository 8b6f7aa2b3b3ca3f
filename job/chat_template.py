"""Which chat template renders conversations, and the one way in which a tokenizer is given it."""

from typing import Any

from job.built_in_templates import CHATML, PLAIN
from job.records import ChatTemplateChoice

SETTING = "JOB_CHAT_TEMPLATE"
OWN = ChatTemplateChoice(name="the tokenizer's own")
# A base model has learned no turns: headers in plain words need no token that it has never seen.
DEFAULT = ChatTemplateChoice(name="plain", reason="the default, as the tokenizer has none", source=PLAIN)
BUILT_IN = {
    "chatml": ChatTemplateChoice(
        name="chatml", reason=SETTING, source=CHATML, added_tokens={"<|im_start|>": True, "<|im_end|>": True}
    ),
    "plain": ChatTemplateChoice(name="plain", reason=SETTING, source=PLAIN),
}


def adopt(tokenizer: Any, choice: ChatTemplateChoice) -> list[int]:
    """Give *tokenizer*, a fast one of transformers, the template of *choice*, its tokens and its end token.

    Returns the ids of the tokens that the vocabulary did not have, in ascending order.
    """
    from tokenizers import AddedToken  # what imports this module to choose a template has no tokenizer to give it to

    if choice.source is not None:
        tokenizer.chat_template = choice.source
    vocabulary = tokenizer.get_vocab()
    lacking = {token: special for token, special in choice.added_tokens.items() if token not in vocabulary}
    # Not normalized: a normalizer that marks beginnings of words would keep the token from being found in the text.
    tokenizer.add_tokens([AddedToken(text, special=special, normalized=False) for text, special in lacking.items()])
    if choice.eos_token is not None:
        tokenizer.eos_token = choice.eos_token
    return sorted(tokenizer.convert_tokens_to_ids(list(lacking)))
