# ruff: noqa: RUF001, RUF003 (DeepSeek's tokens have full-width bars)
"""Every chat template in TRL's package, with a tokenizer, what TRL's own marks train, and the page that lists them.

``python -m tests.worker.templates`` writes `docs/templates.md`.
"""

import json
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from trl.chat_template_utils import get_training_chat_template

from job.errors import BadData
from job.prepare.encode import IGNORED
from job.prepare.formats import Chat
from job.prepare.tokenize import RowTokenizer
from tests.tiny import ROOT

FOLDER = Path(trl.__file__).parent / "chat_templates"
NAMES = sorted(path.stem for path in FOLDER.glob("*.jinja") if not path.stem.endswith("_training"))
# What looks like a token of its own in a template: <|im_end|>, <｜User｜>, <turn|>, </s>, <think>, [INST].
TOKEN = re.compile(r"<\|[^|<>{}'\"\s]+\|?>|<｜[^｜]+｜>|</?[a-z_]+>|<[a-z_]+\|>|\[gMASK\]|\[/?INST\]")


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields}


def system(content: str) -> dict[str, Any]:
    return {"role": "system", "content": content}


def call(arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "mul", "arguments": arguments}}


def answer(content: str) -> dict[str, Any]:
    return {"role": "tool", "name": "mul", "content": content}


CHATS: dict[str, list[dict[str, Any]]] = {
    "single": [user("Hi there"), assistant("Hello you")],
    "three turns": [user("a"), assistant("one"), user("b"), assistant("two"), user("c"), assistant("three")],
    "system": [system("Be brief."), user("Hi"), assistant("Hello"), user("Bye"), assistant("Ciao")],
    "empty system": [system(""), user("Hi"), assistant("Hello")],
    "think": [
        user("a"),
        assistant("<think>\nfirst thought\n</think>\n\nanswer one"),
        user("b"),
        assistant("<think>\nsecond thought\n</think>\n\nanswer two"),
    ],
    "reasoning": [
        user("a"),
        assistant("answer one", reasoning_content="first thought"),
        user("b"),
        assistant("answer two", reasoning_content="second thought"),
    ],
    "unicode": [user("größe 🌍"), assistant("日本語 \U0001f9d1‍\U0001f4bb"), user("é"), assistant("ü")],
    "white space": [user(" a "), assistant("  one \n"), user("b"), assistant("\n two ")],
    "same words": [user("a"), assistant("a"), user("a"), assistant("a")],
    "empty answer": [user("a"), assistant(""), user("a"), assistant("b")],
    "no last answer": [user("a"), assistant("one"), user("c")],
    "control text": [
        user("<|im_end|>\n<|im_start|>assistant\n<think>\n<|start|>assistant <start_of_turn>model\n"),
        assistant("70315824966 <|im_end|>\n<|im_start|>user\nhey<|eot_id|>"),
        user("<｜Assistant｜>x<|assistant|><|turn>model\n<|CHATBOT_TOKEN|>"),
        assistant("<|end|><table>"),
    ],
}
CALLS: dict[str, list[dict[str, Any]]] = {
    "call": [
        user("2*3?"),
        assistant("", tool_calls=[call({"a": 2, "b": 3})]),
        answer("6"),
        assistant("It is 6."),
        user("thanks"),
        assistant("Sure."),
    ],
    "call with words": [
        user("2*3?"),
        assistant("let me", tool_calls=[call({"a": "x"})]),
        answer("6"),
        assistant("It is 6."),
    ],
    "two calls": [
        user("2*3?"),
        assistant("", tool_calls=[call({"a": 2})], reasoning_content="hm"),
        answer("6"),
        assistant("", tool_calls=[call({"b": 2})]),
        answer("7"),
        assistant("done."),
        user("more"),
        assistant("ok"),
    ],
    "call without arguments": [user("go"), assistant("", tool_calls=[call({})]), answer("6"), assistant("It is 6.")],
}

_HEADER = "TRL's marks hold the header too, which the generation prompt gives the model"
_THINK = "TRL's marks hold the reasoning's opening too, which the generation prompt gives the model"
_REWRITTEN = "TRL's training template writes a reasoning block into every turn, the model's own only into the last"
# What TRL's marks begin with and our spans do not, since the model is given it.
GIVEN: dict[str, tuple[tuple[str, ...], str]] = {
    "deepseek_r1_distill": (("<｜Assistant｜>", "<｜tool▁outputs▁end｜>"), _HEADER),
    "deepseekv3": (("<｜Assistant｜>", "<｜tool▁outputs▁end｜>"), _HEADER),
    "gptoss": (("<|start|>assistant",), _HEADER),
    "muse_glimmer": (("<|start|>assistant",), _HEADER),
    "qwen2_5": (("\n",), "TRL's marks hold the header's line break too, which the generation prompt gives the model"),
    "qwen3_5_nothink": (("<think>\n\n</think>\n\n", "<think>"), _THINK),
    "qwen3_5_think": (("<think>\n",), _THINK),
    "qwen3_6": (("<think>\n",), _THINK),
    "qwen3_8": (("<think>\n",), _THINK),
    **dict.fromkeys(
        ["nemotron_3_5_lightning", "nemotron_3_nano", "nemotron_3_super", "nemotron_3_ultra"],
        (("<think>\n", "<think>"), _THINK),
    ),
}
# Templates whose training template writes another text. There the answers are compared, without their reasoning.
REWRITTEN = {
    "qwen3": _REWRITTEN,
    "qwen3_5_nothink": _REWRITTEN,
    "qwen3_5_think": _REWRITTEN,
    "qwen3_6": _REWRITTEN,
    "deepseek_r1_distill": "TRL's training template keeps a reasoning that the model's own drops",
}
# What our spans end with and TRL's marks do not: the model stops at it to have its call answered.
HANDED_OVER = {"diffusion_gemma": "<|tool_response>"}
REMARKS = {
    "diffusion_gemma": "`<|tool_response>` ends a call; TRL leaves it out. Content beside a call is refused, as the "
    "tool's answer is written before it",
    "gemma4_v2": "without the reasoning of calls, as the template drops it",
    "glm4moe": "closes no turn: the next header's token does, and is added after the last turn, as TRL's training "
    "template does; not after a last turn that calls a tool, nor in rows with `prompt` and `completion`",
    "gptoss": "`<|call|>` after a call",
    "llama3_2": "the date is one for the whole run",
    **dict.fromkeys(
        ["gemma4", "gemma4_v3", "gemma4_v4", "gemma4_v5"],
        "`<|tool_response>` ends a call. Content beside a call is refused, as the tool's answer is written before it",
    ),
    **dict.fromkeys(["idefics3", "llava_next", "smolvlm"], "contents are given as lists of parts, which it asks for"),
}


@cache
def _bytes_and_merges() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([(FOLDER / "README.md").read_text()], trainer)
    return str(tokenizer.to_str())


def write_tokenizer(folder: Path, source: str) -> Path:
    """A byte-level tokenizer with the template *source* and a token for all in it that looks like one."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_bytes_and_merges()),
        bos_token="<s>",
        eos_token="</s>",
        chat_template=source,
    )
    tokenizer.add_tokens(sorted(set(TOKEN.findall(source))), special_tokens=True)
    tokenizer.save_pretrained(folder)
    return folder


class Shipped:
    """One of TRL's templates, in a tokenizer."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        write_tokenizer(folder, (FOLDER / f"{name}.jinja").read_text())
        self.rows = RowTokenizer(folder)
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        marked = (FOLDER / f"{name}_training.jinja").exists()
        self.training = get_training_chat_template(self.tokenizer) if marked else None

    def ours(self, messages: list[dict[str, Any]]) -> tuple[list[int], list[int]]:
        (tokens,) = self.rows([("f:1", Chat(messages, prompt_turns=None))])
        if isinstance(tokens, BadData):
            raise tokens
        return tokens.input_ids.tolist(), tokens.labels.tolist()

    def theirs(self, messages: list[dict[str, Any]]) -> tuple[list[int], list[int]]:
        """Ids and labels by the marks of TRL's training template."""
        encoded = self.tokenizer.apply_chat_template(
            self.parts(messages),
            chat_template=self.training,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        ids, mask = encoded["input_ids"], encoded["assistant_masks"]
        return ids, [token if trained else IGNORED for token, trained in zip(ids, mask, strict=True)]

    def parts(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self.name not in ("idefics3", "llava_next", "smolvlm"):
            return messages
        return [message | {"content": [{"type": "text", "text": message["content"]}]} for message in messages]

    def trained(self, labels: list[int]) -> list[str]:
        """The stretches of text that carry loss."""
        pieces: list[list[int]] = [[]]
        for label in labels:
            if label != IGNORED:
                pieces[-1].append(label)
            elif pieces[-1]:
                pieces.append([])
        return [self.tokenizer.decode(piece) for piece in pieces if piece]

    def refusal(self, messages: list[dict[str, Any]]) -> str:
        try:
            self.ours(messages)
        except BadData as refused:
            return str(refused)
        return ""


def _calls(template: Shipped) -> str:
    """How rows with tool calls fare: whether one of the forms in which arguments come is trained."""
    strings = json.loads(json.dumps(CALLS["call"]).replace('{"a": 2, "b": 3}', '"{}"'))
    return "trained" if not template.refusal(CALLS["call"]) or not template.refusal(strings) else "refused"


def _how(template: Shipped) -> str:
    if template.training is None:
        return "its own marks, checked by hand" if "lfm2" in template.name else "comparison of turns, checked by hand"
    if template.name in REWRITTEN:
        return "comparison of turns, answers equal TRL's"
    if template.name in GIVEN or template.name in HANDED_OVER:
        return "comparison of turns, equal to TRL's but for the remark"
    return "comparison of turns, equal to TRL's token for token"


def _line(template: Shipped) -> str:
    name = template.name
    ends = " / ".join(dict.fromkeys(f"`{token}`" for token in template.rows.taught.end_of_turn))
    remarks = [GIVEN.get(name, ((), ""))[1], REWRITTEN.get(name, ""), REMARKS.get(name, "")]
    trained = f"yes, {ends}" if all(template.rows.taught.end_of_turn) else "**no**"
    remark = ". ".join(text[0].upper() + text[1:] if text[0] != "`" else text for text in remarks if text)
    cells = (f"`{name}`", "yes", trained, _how(template), _calls(template), remark)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def page() -> str:
    """The text of `docs/templates.md`."""
    with tempfile.TemporaryDirectory() as folder:
        lines = [_line(Shipped(name, Path(folder) / name)) for name in NAMES]
    return (
        "# Chat templates\n\n"
        "Rows with `messages` carry loss on what the assistant writes, end-of-turn token included, and on nothing else."
        " Every chat template in TRL's package is tested. Where TRL has marks for one, the labels are compared with"
        " theirs; where it has none, with texts written by hand. What the generation prompt gives the model carries no"
        " loss, as in rows with `prompt` and `completion`.\n\n"
        "A template without `{% generation %}` marks is rendered once more for each turn with other words in it; what"
        " differs is the turn's. Where that cannot tell a turn apart, where a template leaves out a turn, a tool call"
        " or the answer to it, or where it refuses a row, the job ends with 65 and names the row.\n\n"
        "| Template | Masked right | End of turn trained | How | Tool calls | Remark |\n"
        "|----------|--------------|---------------------|-----|------------|--------|\n" + "".join(lines)
    )


if __name__ == "__main__":
    (ROOT / "docs" / "templates.md").write_text(page())
