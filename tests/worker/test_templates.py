# ruff: noqa: RUF001 (DeepSeek's tokens have full-width bars)
"""Masks for every chat template that TRL ships, against TRL's own marks or texts written by hand."""

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AddedToken, PreTrainedTokenizerFast
from trl.trainer.sft_trainer import common_prefix_length

from job.errors import BadData
from job.prepare import template as template_module
from job.prepare.encode import IGNORED
from job.prepare.formats import Chat
from job.prepare.template import ChatTemplate
from job.prepare.tokenize import RowTokenizer
from tests.tiny import ROOT
from tests.worker.templates import (
    CALLS,
    CHATS,
    FOLDER,
    GIVEN,
    HANDED_OVER,
    NAMES,
    REWRITTEN,
    Shipped,
    answer,
    assistant,
    call,
    page,
    user,
    write_tokenizer,
)

MARKED_BY_TRL = [name for name in NAMES if (FOLDER / f"{name}_training.jinja").exists()]
# Rows that TRL's training templates train although the call, or the tool's answer, is lost or out of its place there.
LOSES_CALLS = {"deepseek_r1_distill", "idefics3", "lfm2", "llama3", "phi3", "phi3_5", "qwen2_5_vl", "smolvlm"}
REFUSED = {(name, chat) for name in LOSES_CALLS for chat in CALLS} | {("diffusion_gemma", "call with words")}
# The model's own template takes arguments as text only.
REFUSED |= {("deepseekv3", chat) for chat in CALLS}

LLAMA = {
    "single": ["Hello you<|eot_id|>"],
    "system": ["Hello<|eot_id|>", "Ciao<|eot_id|>"],
    "three turns": ["one<|eot_id|>", "two<|eot_id|>", "three<|eot_id|>"],
    "empty system": ["Hello<|eot_id|>"],
    "think": [
        "<think>\nfirst thought\n</think>\n\nanswer one<|eot_id|>",
        "<think>\nsecond thought\n</think>\n\nanswer two<|eot_id|>",
    ],
    "reasoning": ["answer one<|eot_id|>", "answer two<|eot_id|>"],
    "unicode": ["日本語 \U0001f9d1‍\U0001f4bb<|eot_id|>", "ü<|eot_id|>"],
    "white space": ["one<|eot_id|>", "two<|eot_id|>"],
    "same words": ["a<|eot_id|>", "a<|eot_id|>"],
    "empty answer": ["<|eot_id|>", "b<|eot_id|>"],
    "no last answer": ["one<|eot_id|>"],
    "control text": ["70315824966 <|im_end|>\n<|im_start|>user\nhey<|eot_id|><|eot_id|>", "<|end|><table><|eot_id|>"],
    "call": ['{"name": "mul", "parameters": {"a": 2, "b": 3}}<|eot_id|>', "It is 6.<|eot_id|>", "Sure.<|eot_id|>"],
    "call with words": ['{"name": "mul", "parameters": {"a": "x"}}<|eot_id|>', "It is 6.<|eot_id|>"],
    "two calls": [
        '{"name": "mul", "parameters": {"a": 2}}<|eot_id|>',
        '{"name": "mul", "parameters": {"b": 2}}<|eot_id|>',
        "done.<|eot_id|>",
        "ok<|eot_id|>",
    ],
    "call without arguments": ['{"name": "mul", "parameters": {}}<|eot_id|>', "It is 6.<|eot_id|>"],
}
GEMMA = {chat: [text.replace("<|eot_id|>", "<turn|>\n") for text in texts] for chat, texts in LLAMA.items()} | {
    "control text": ["70315824966 <|im_end|>\n<|im_start|>user\nhey<|eot_id|><turn|>\n", "<|end|><table><turn|>\n"],
    "call": ["<|tool_call>call:mul{a:2,b:3}<tool_call|><|tool_response>", "It is 6.<turn|>\n", "Sure.<turn|>\n"],
    "call with words": None,
    "two calls": [
        "<|tool_call>call:mul{a:2}<tool_call|><|tool_response>",
        "<|tool_call>call:mul{b:2}<tool_call|><|tool_response>",
        "done.<turn|>\n",
        "ok<turn|>\n",
    ],
    "call without arguments": ["<|tool_call>call:mul{}<tool_call|><|tool_response>", "It is 6.<turn|>\n"],
}
GEMMA_2 = GEMMA | {
    "call": ["<|tool_call>call:mul{a:2,b:3}<tool_call|><turn|>\n", "It is 6.<turn|>\n", "Sure.<turn|>\n"],
    "call with words": ['<|tool_call>call:mul{a:<|"|>x<|"|>}<tool_call|>let me<turn|>\n', "It is 6.<turn|>\n"],
    "two calls": [
        "<|tool_call>call:mul{a:2}<tool_call|><turn|>\n",
        "<|tool_call>call:mul{b:2}<tool_call|><turn|>\n",
        "done.<turn|>\n",
        "ok<turn|>\n",
    ],
    "call without arguments": ["<|tool_call>call:mul{}<tool_call|><turn|>\n", "It is 6.<turn|>\n"],
}
GEMMA_5 = GEMMA | {
    "reasoning": ["answer one<turn|>\n", "<|channel>thought\nsecond thought\n<channel|>answer two<turn|>\n"],
}
LFM = {chat: [text.replace("<|eot_id|>", "<|im_end|>\n") for text in texts] for chat, texts in LLAMA.items()} | {
    "think": ["answer one<|im_end|>\n", "<think>\nsecond thought\n</think>\n\nanswer two<|im_end|>\n"],
    "reasoning": ["answer one<|im_end|>\n", "<think>second thought</think>answer two<|im_end|>\n"],
    "white space": ["  one \n<|im_end|>\n", "\n two <|im_end|>\n"],
    "control text": [
        "70315824966 <|im_end|>\n<|im_start|>user\nhey<|eot_id|><|im_end|>\n",
        "<|end|><table><|im_end|>\n",
    ],
    "call": [
        "<|tool_call_start|>[mul(a=2, b=3)]<|tool_call_end|><|im_end|>\n",
        "It is 6.<|im_end|>\n",
        "Sure.<|im_end|>\n",
    ],
    "call with words": [
        "let me<|tool_call_start|>[mul(a='x')]<|tool_call_end|><|im_end|>\n",
        "It is 6.<|im_end|>\n",
    ],
    "two calls": [
        "<|tool_call_start|>[mul(a=2)]<|tool_call_end|><|im_end|>\n",
        "<|tool_call_start|>[mul(b=2)]<|tool_call_end|><|im_end|>\n",
        "done.<|im_end|>\n",
        "ok<|im_end|>\n",
    ],
    "call without arguments": ["<|tool_call_start|>[mul()]<|tool_call_end|><|im_end|>\n", "It is 6.<|im_end|>\n"],
}
# None: refused.
BY_HAND = {
    "llama3_1": LLAMA,
    "llama3_2": LLAMA,
    "gemma4": GEMMA,
    "gemma4_v2": GEMMA_2,
    "gemma4_v3": GEMMA,
    "gemma4_v4": GEMMA,
    "gemma4_v5": GEMMA_5,
    "lfm2_2_5": LFM,
    "lfm2_2_5_v2": LFM,
    "lfm2_2_5_vl": LFM,
}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory):
    made: dict[str, Shipped] = {}

    def get(name: str) -> Shipped:
        if name not in made:
            made[name] = Shipped(name, tmp_path_factory.mktemp(name))
        return made[name]

    return get


def rows(tmp_path: Path, source: str) -> RowTokenizer:
    return RowTokenizer(write_tokenizer(tmp_path, source))


def answer_alone(text: str) -> str:
    return re.sub(r"^(<｜Assistant｜>)?(.*?</think>)?\n*", "", text, flags=re.DOTALL)


def test_every_shipped_template_is_checked():
    assert set(MARKED_BY_TRL) | set(BY_HAND) == set(NAMES)


@pytest.mark.parametrize("chat", [*CHATS, *CALLS])
@pytest.mark.parametrize("name", MARKED_BY_TRL)
def test_labels_equal_those_of_trls_marks(shipped, name, chat):
    template, messages = shipped(name), (CHATS | CALLS)[chat]
    if refused := template.refusal(messages):
        assert refused.startswith("f:1: ")
        if (name, chat) not in REFUSED:
            with pytest.raises(Exception, match=r"role|alternate"):  # the model's template and TRL's raise alike
                template.theirs(messages)
        return

    (ids, labels), (their_ids, their_labels) = template.ours(messages), template.theirs(messages)

    assert (name, chat) not in REFUSED
    ours, theirs = template.trained(labels), template.trained(their_labels)
    if ids != their_ids:
        assert name in REWRITTEN
        assert [answer_alone(text) for text in ours] == [answer_alone(text) for text in theirs]
    elif name in GIVEN:
        more = {long.removesuffix(short) for short, long in zip(ours, theirs, strict=True)}
        assert more <= {*GIVEN[name][0], ""}
    elif (name, chat) == ("diffusion_gemma", "unicode"):
        # A span that ends in a character of many bytes: transformers' mask holds only its first.
        assert ours == GEMMA[chat] != theirs
    elif name in HANDED_OVER:
        assert [text.removesuffix(HANDED_OVER[name]) for text in ours] == theirs
    else:
        assert labels == their_labels


@pytest.mark.parametrize("chat", [*CHATS, *CALLS])
@pytest.mark.parametrize("name", BY_HAND)
def test_labels_equal_what_is_written_by_hand(shipped, name, chat):
    template, messages, expected = shipped(name), (CHATS | CALLS)[chat], BY_HAND[name][chat]

    if expected is None:
        assert "messages[1] cannot be told apart" in template.refusal(messages)
    else:
        assert template.trained(template.ours(messages)[1]) == expected


@pytest.mark.parametrize("name", NAMES)
def test_the_end_of_turn_token_is_trained(shipped, name):
    template = shipped(name)

    _, labels = template.ours(CHATS["three turns"])

    earlier, last = template.rows.taught.end_of_turn
    assert all(template.rows.taught.end_of_turn)
    *firsts, final = template.trained(labels)
    assert all(text.rstrip().endswith(earlier) for text in firsts)
    assert final.rstrip().endswith(last)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("idefics3", "llava_next", "smolvlm")])
def test_conversational_prompt_and_completion_equal_trls(shipped, name):
    template, messages = shipped(name), CHATS["three turns"]
    prompt = template.tokenizer.apply_chat_template(messages[:3], add_generation_prompt=True, return_dict=True)
    full = template.tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    start = common_prefix_length(prompt["input_ids"], full)

    (tokens,) = template.rows([("f:1", Chat(messages, prompt_turns=3))])

    assert tokens.input_ids.tolist() == full
    assert tokens.labels.tolist() == [IGNORED] * start + full[start:]


@pytest.mark.parametrize("name", NAMES)
def test_renderings_grow_with_the_turns_and_no_faster(shipped, name, monkeypatch):
    renderings = []
    real = template_module.render_jinja_template
    monkeypatch.setattr(template_module, "render_jinja_template", lambda **a: renderings.append(1) or real(**a))
    template, turns = shipped(name), 5
    renderings.clear()

    template.ours([message for turn in range(turns) for message in (user(f"q{turn}"), assistant(f"a{turn}"))])

    assert len(renderings) <= 1 + 3 * turns


def test_parallel_calls_are_one_turn(shipped):
    messages = [user("2*3?"), assistant("", tool_calls=[call({"a": 2}), call({"b": "q"})]), answer("6"), answer("7")]

    template = shipped("gemma4_v5")

    calls, last = template.trained(template.ours([*messages, assistant("6 and 7")])[1])

    assert calls.count("<|tool_call>") == 2
    assert last == "6 and 7<turn|>\n"


def parallel(*arguments: Any) -> list[dict[str, Any]]:
    calls = assistant("", tool_calls=[call(each) for each in arguments])
    return [user("2*3?"), calls, *(answer(str(number)) for number in range(len(arguments))), assistant("6 and 7")]


def test_a_first_call_without_arguments_is_trained_like_the_second(shipped):
    template = shipped("muse_glimmer")

    calls, last = template.trained(template.ours(parallel({}, {"a": 2}))[1])

    assert calls.count("<atem:invoke") == 2
    assert "6 and 7" in last


def test_a_template_that_writes_one_call_of_two_is_refused(shipped):
    template = shipped("gptoss")

    assert template.refusal(parallel({"a": 1})) == ""
    assert "leaves its words or its tool calls out" in template.refusal(parallel({"a": 1}, {"b": 2}))


def test_arguments_that_come_as_text_are_trained_where_the_template_wants_them_so(shipped):
    messages = [user("2*3?"), assistant("", tool_calls=[call('{"a": 2}')]), answer("6"), assistant("It is 6.")]
    template = shipped("deepseekv3")

    calls, last = template.trained(template.ours(messages)[1])

    assert '{"a": 2}' in calls
    assert calls.endswith("<｜tool▁calls▁end｜><｜end▁of▁sentence｜>")
    assert last == "It is 6.<｜end▁of▁sentence｜>"


def test_turns_of_one_role_in_a_row_are_told_apart_or_refused(shipped):
    messages = [user("a"), assistant("one"), assistant("two"), user("c"), assistant("three")]

    llama = shipped("llama3_1")

    assert llama.trained(llama.ours(messages)[1]) == ["one<|eot_id|>", "two<|eot_id|>", "three<|eot_id|>"]
    assert "messages[1] cannot be told apart" in shipped("gemma4_v5").refusal(messages)


def test_a_template_that_drops_what_the_turns_say_is_refused(tmp_path):
    source = "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{% endfor %}"

    for prompt_turns in (None, 1):
        (problem,) = rows(tmp_path, source)([("rows.jsonl:3", Chat(CHATS["single"], prompt_turns))])
        assert isinstance(problem, BadData)
        assert re.match(r"rows\.jsonl:3: .* does not write what the turns say", problem.cause)


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
        "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{% if m['role'] == 'assistant' %}{% generation %}"
        "{{ m['content'] }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{{ '<|end|>' }}{% endfor %}",
    ],
    ids=["no token", "outside the marks"],
)
def test_a_template_that_does_not_teach_the_model_to_stop_is_known(tmp_path, source):
    loaded = rows(tmp_path, source)

    assert not all(loaded.taught.end_of_turn)
    assert loaded.taught.end_of_turn == ("", "")


def test_marks_in_a_comment_are_no_marks(tmp_path):
    source = (
        "{# {% generation %} would be {% endgeneration %} #}"
        "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    (tokens,) = rows(tmp_path, source)([("f:1", Chat(CHATS["three turns"], None))])

    assert (tokens.labels != IGNORED).any()


def test_a_template_that_wants_a_system_turn_is_looked_at_with_one(tmp_path):
    source = (
        "{% if messages[0]['role'] != 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
        "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    loaded = rows(tmp_path, source)

    (tokens,) = loaded([("f:1", Chat(CHATS["system"], None))])

    assert loaded.taught.end_of_turn == ("<|end|>", "<|end|>")
    trained = [int(label) for label in tokens.labels if label != IGNORED]
    assert PreTrainedTokenizerFast.from_pretrained(tmp_path).decode(trained) == "Hello<|end|>Ciao<|end|>"


def test_a_clock_in_a_template_stands_still():
    template = ChatTemplate("{{ strftime_now('%H:%M:%S.%f') }}", {}, [])

    assert template.render([user("a")]) == template.render([user("a")]) != ""


def test_white_space_that_a_token_swallows_does_not_stretch_a_turn(tmp_path):
    source = (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    )
    write_tokenizer(tmp_path, source)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    tokenizer.add_tokens([AddedToken("<|end|>", rstrip=True, special=True)], special_tokens=True)
    tokenizer.save_pretrained(tmp_path)

    (tokens,) = RowTokenizer(tmp_path)([("f:1", Chat(CHATS["three turns"], None))])

    kept = [int(label) for label in tokens.labels if label != IGNORED]
    assert tokenizer.decode(kept).replace("\n", "") == "one<|end|>two<|end|>three<|end|>"


def test_a_turn_that_ends_in_a_character_of_many_bytes_is_trained_to_its_last_byte(tmp_path):
    source = (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{% generation %}{{ m['content'] }}{% endgeneration %}"
        "{% endfor %}"
    )
    (tokens,) = rows(tmp_path, source)([("f:1", Chat([user("a"), assistant("日本語")], None))])

    assert (tokens.labels != IGNORED).sum() == 1 + len("日本語".encode())


def test_the_page_equals_what_the_templates_show():
    assert (ROOT / "docs" / "templates.md").read_text() == page(), "run python -m tests.worker.templates"
