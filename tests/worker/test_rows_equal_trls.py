"""Prepared rows against those of TRL's SFTTrainer, token for token: every format, template and kind of tokenizer."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM
from trl import SFTTrainer
from trl.chat_template_utils import get_training_chat_template

from job.errors import BadData
from job.prepare.encode import IGNORED
from tests.tiny import ROOT
from tests.worker import differences
from tests.worker.kinds import CHATML, KINDS, write_kind, write_kind_for, write_named, write_rebuilt
from tests.worker.matrix import TOOLS, comparisons
from tests.worker.side_by_side import Fields, config, dataset_of, load, ours, theirs, trained
from tests.worker.templates import GIVEN, NAMES, REWRITTEN, assistant, system, user

# What tokenizers trip over: white space at the ends and in runs, characters of many bytes or code points, what
# normalizers rewrite, and texts that are tokens of the kinds under test.
WORDS = [
    "Hi", "", " ", "\n", " lead", "trail ", "a\n\nb\n", "\t\t\r\n", "x    y                          z", "1234567 ",
    "größe 🌍", "日本語", "e\u0301 ﬁ", "İ ŉ", "\u200d👨\u200d👩\u200d👧", "ü" * 40, "▁▁", "\ufeff",
    "No answer YES no yes No.", "answer", "<tool>  <tool>", "<0x0A>",
    "</s>", "<s> <s>x", "say <|im_end|>\n<|im_start|>user\n", "<|im_end|>  ", "<|im_start|>assistant\n", "<|im",
]  # fmt: skip
FORMATS = ("text", "strings", "prompt-completion", "messages")


def texts(seed: int, count: int) -> list[str]:
    generator = random.Random(seed)
    return WORDS + ["".join(generator.choices(WORDS, k=3)) for _ in range(count)]


def rows_of(format_: str, seed: int = 0, count: int = 30) -> list[Fields]:
    """Rows of *format_* with every text as a question and, but for those that nothing is to be learned from, answer."""
    pairs = list(zip(texts(seed, count), reversed(texts(seed + 1, count)), strict=True))
    match format_:
        case "text":
            return [{"text": text} for text, _ in pairs if text.strip()]
        case "strings":
            return [{"prompt": prompt, "completion": answer} for prompt, answer in pairs if answer.strip()]
        case "prompt-completion":
            return [{"prompt": [user(asked)], "completion": [assistant(said)]} for asked, said in pairs]
        case _:
            return [
                {"messages": [system("s"), user(asked), assistant(said), user(said), assistant(asked)]}
                for asked, said in pairs
            ]


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_equal_with_every_kind_of_tokenizer(tmp_path, kind, format_):
    rows, tokenizer = rows_of(format_), write_kind(tmp_path, kind)

    prepared = ours(rows, tokenizer)

    assert prepared == theirs(rows, tokenizer)
    assert len(prepared) == len(rows)


@pytest.mark.parametrize("format_", FORMATS)
def test_rows_are_equal_where_special_tokens_in_a_text_are_plain_text(tmp_path, format_):
    rows, tokenizer = rows_of(format_), write_kind(tmp_path, "llama3", split_special_tokens=True)

    assert ours(rows, tokenizer) == theirs(rows, tokenizer)


@pytest.mark.parametrize("with_tools", [False, True], ids=["", "tools"])
@pytest.mark.parametrize("name", NAMES)
def test_conversational_prompt_and_completion_are_equal_in_every_template(name, with_tools):
    compared = comparisons(name, "prompt-completion", with_tools)

    assert [each.chat for each in compared if not each.equal] == []
    assert any(not isinstance(each.ours, str) for each in compared)


@pytest.mark.parametrize("with_tools", [False, True], ids=["", "tools"])
@pytest.mark.parametrize("name", NAMES)
def test_messages_are_equal_in_every_template_but_for_a_known_reason(name, with_tools):
    compared = comparisons(name, "messages", with_tools)

    assert [each.chat for each in compared if not each.equal and each.reason is None] == []
    if not (name in GIVEN or name in REWRITTEN or any(isinstance(each.theirs, str) for each in compared)):
        assert sum(each.equal for each in compared) >= 11, "a few differ, not all"


@pytest.mark.parametrize("rstrip", [False, True], ids=["", "rstrip"])
@pytest.mark.parametrize("template", ["qwen3_instruct_2507", "phi3", "gemma3"])
@pytest.mark.parametrize("kind", KINDS)
def test_turns_are_told_apart_in_the_tokens_of_every_kind(tmp_path, kind, template, rstrip):
    """Without marks. Only where the last character of a turn is several tokens, TRL's mask holds fewer of them."""
    tokenizer = write_kind_for(tmp_path, kind, template, rstrip=rstrip)
    rows = [{"messages": row["messages"][1:]} for row in rows_of("messages", count=8)]

    for row, our, their in zip(rows, ours(rows, tokenizer), theirs(rows, tokenizer), strict=True):
        assert our["input_ids"] == their["input_ids"]
        if our != their:
            assert more_of_the_last_characters(row, our["labels"], their["labels"], tokenizer)


def more_of_the_last_characters(row: Fields, ours_: list[int], theirs_: list[int], tokenizer: Path) -> bool:
    """Whether *ours_* has but such labels more as belong to a character of which the token before is trained too."""
    processing_class = load(tokenizer)
    encoded = processing_class.apply_chat_template(
        row["messages"],
        chat_template=get_training_chat_template(processing_class),
        return_dict=True,
        tokenizer_kwargs={"return_offsets_mapping": True},
    )
    places = encoded["offset_mapping"]
    return all(
        their == IGNORED != ours_[index - 1] and places[index][0] < places[index - 1][1]
        for index, (our, their) in enumerate(zip(ours_, theirs_, strict=True))
        if our != their
    )


@pytest.mark.parametrize("in_json", [False, True], ids=["a list", "JSON of one"])
def test_definitions_of_tools_are_equal(tmp_path, in_json):
    template = "{% if tools %}{{ tools | tojson }}{% endif %}" + CHATML
    rows = [row | {"tools": json.dumps(TOOLS) if in_json else TOOLS} for row in rows_of("prompt-completion")]
    tokenizer = write_kind(tmp_path, "qwen", template)

    assert ours(rows, tokenizer) == theirs(rows, tokenizer)


def test_sharegpt_is_equal_to_its_rows_with_mapped_roles(tmp_path):
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    rows, tokenizer = rows_of("messages"), write_kind(tmp_path, "llama3")
    sharegpt = [
        {"conversations": [{"from": names[turn["role"]], "value": turn["content"]} for turn in row["messages"]]}
        for row in rows
    ]

    assert ours(sharegpt, tokenizer) == theirs(rows, tokenizer)


def alpaca() -> list[Fields]:
    pairs = zip(texts(2, 30), reversed(texts(3, 30)), strict=True)
    return [
        {"instruction": asked, "input": asked[::2] if number % 2 else "", "output": said}
        for number, (asked, said) in enumerate(pairs)
        if asked.strip() and said.strip()
    ]


def test_alpaca_is_equal_to_its_rows_as_a_chat(tmp_path):
    rows, tokenizer = alpaca(), write_kind(tmp_path, "gemma")
    chats = [
        {
            "prompt": [user(row["instruction"] + ("\n\n" + row["input"] if row["input"] else ""))],
            "completion": [assistant(row["output"])],
        }
        for row in rows
    ]

    assert ours(rows, tokenizer) == theirs(chats, tokenizer)


def test_alpaca_without_a_template_is_equal_to_its_rows_as_strings(tmp_path):
    rows, tokenizer = alpaca(), write_kind(tmp_path, "llama2 first", None)
    strings = [
        {
            "prompt": f"### Instruction:\n{row['instruction']}\n\n"
            + (f"### Input:\n{row['input']}\n\n" if row["input"] else "")
            + "### Response:\n",
            "completion": row["output"],
        }
        for row in rows
    ]

    assert ours(rows, tokenizer) == theirs(strings, tokenizer)


@pytest.mark.parametrize("max_length", [1, 12, 40])
@pytest.mark.parametrize("format_", FORMATS)
def test_rows_cut_at_the_limit_are_equal_and_so_are_those_left_out(tmp_path, format_, max_length):
    rows, tokenizer = rows_of(format_), write_kind(tmp_path, "llama3")
    expected = theirs(rows, tokenizer, max_length)

    if expected:
        assert ours(rows, tokenizer, max_length) == expected
        assert max(len(row["input_ids"]) for row in expected) == max_length
    else:
        with pytest.raises(BadData, match=f"all {len(rows)} rows are cut off at {max_length} tokens"):
            ours(rows, tokenizer, max_length)


def turns(**fields: Any) -> Fields:
    return {"prompt": [user("a b")], "completion": [assistant("c")]} | fields


@pytest.mark.parametrize(
    ("write", "row"),
    [
        pytest.param(write_rebuilt, turns(), id="a class with rules of its own"),
        pytest.param(write_named, turns(tools=TOOLS), id="a template for tools"),
        pytest.param(write_named, turns(), id="a template for tools, and none"),
        pytest.param(
            lambda folder: write_kind_for(folder, "gpt2", "qwen3"),
            turns(chat_template_kwargs={"enable_thinking": False}),
            id="variables for the template",
        ),
    ],
)
def test_what_a_tokenizer_or_a_row_brings_of_its_own_is_equal(tmp_path, write, row):
    tokenizer = write(tmp_path)

    assert ours([row], tokenizer) == theirs([row], tokenizer)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("count", [100, 1200])
def test_packs_hold_the_same_rows_in_the_same_order(tmp_path, format_, count):
    """1,200 rows are more than a window, which holds more than 128 packs, and some are longer than a pack."""
    length = 200
    rows, tokenizer = rows_of(format_, count=count), write_kind(tmp_path, "llama3")

    packed = ours(rows, tokenizer, length, packing=True)

    assert packed == theirs(rows, tokenizer, length, packing=True)
    assert len(packed) < len(rows)


@pytest.mark.parametrize("format_", FORMATS)
def test_what_is_compared_with_is_what_a_real_trainer_trains_on(tmp_path, format_):
    rows, tokenizer = rows_of(format_, count=2), write_kind_for(tmp_path, "qwen", "qwen2_5_vl")
    vocabulary = len(load(tokenizer))
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **shape))
    args = config(rows, tmp_path, max_length=60)

    trainer = SFTTrainer(model, args, train_dataset=dataset_of(rows), processing_class=load(tokenizer))

    trained_on = trainer.train_dataset.select_columns(["input_ids", "labels"]).to_list()
    assert trained_on == theirs(rows, tokenizer, 60) == ours(rows, tokenizer, 60)


def test_the_tokens_that_carry_loss_are_not_just_equal_but_the_answers(tmp_path):
    tokenizer = write_kind(tmp_path, "llama3")
    (row,) = ours([{"messages": [user("a"), assistant("b"), user("c"), assistant("d")]}], tokenizer)

    assert trained(row, tokenizer) == ["b<|im_end|>", "d<|im_end|>"]


def test_the_page_of_differences_is_up_to_date():
    page = (ROOT / "docs" / "differences.md").read_text()

    assert page == differences.page(), "run python -m tests.worker.differences"
    assert "**unknown**" not in page


def test_every_line_of_the_page_shows_a_difference(tmp_path: Path):
    for number, case in enumerate(differences.CASES):
        theirs_told, ours_told = case.sides(tmp_path / str(number))
        assert theirs_told != ours_told, f"{case.about}: both sides do the same"
