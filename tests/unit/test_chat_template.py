"""JOB_CHAT_TEMPLATE: what it names, what is refused, which tokens it brings, and the default for base models."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast

from job.chat_template import BUILT_IN, DEFAULT, OWN, adopt
from job.environment import load_spec
from job.errors import AccessDenied, BadData, BadSpec, NotFound
from job.facts.chat_template import find_chat_template
from job.preparation import open_workshop
from job.preparation import prepare as prepare_in_child
from job.prepare.encode import IGNORED
from job.prepare.formats import Chat, Example
from job.prepare.load import load_tokenizer
from job.prepare.preferences import to_example
from job.prepare.read import Row
from job.prepare.story import make_reading, prepare
from job.prepare.tokenize import RowTokenizer
from job.processes import StopRequest
from job.records import ChatTemplateChoice
from job.spec import JobSpec
from tests.unit.conftest import CHATML, MARKED, MakeTokenizer
from tests.unit.test_prepare import CHAT, task

SPEC = {"JOB_MODEL": "org/m", "JOB_DATASET_URI": "org/d", "JOB_OUTPUT_URI": "/o"}
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look", "arguments": {"at": "sky"}}}]},
    {"role": "tool", "content": "sun"},
    {"role": "assistant", "content": "Sunny."},
]


def pieces(rows: RowTokenizer, example: Example) -> list[tuple[bool, str]]:
    """The row as the model sees it: whether a stretch carries loss, and its text."""
    (tokens,) = rows([("f:1", example)])
    assert not isinstance(tokens, BadData), tokens
    stretches: list[tuple[bool, list[int]]] = []
    for token, label in zip(tokens.input_ids.tolist(), tokens.labels.tolist(), strict=True):
        if not stretches or stretches[-1][0] != (label != IGNORED):
            stretches.append((label != IGNORED, []))
        stretches[-1][1].append(token)
    return [(trained, rows.decode(ids)) for trained, ids in stretches]


# What it names


@pytest.mark.parametrize("text", ["chatlm", "templates/chat/x.jinja", "https://host/x.jinja", "hf://datasets/org/x"])
def test_a_name_that_is_no_place_is_refused_with_the_built_in_names(text):
    with pytest.raises(BadSpec, match=r"JOB_CHAT_TEMPLATE=.*; built in are chatml and plain"):
        load_spec(SPEC | {"JOB_CHAT_TEMPLATE": text})


def test_a_relative_path_that_reads_as_a_repository_is_refused():
    with pytest.raises(BadSpec, match=r"JOB_CHAT_TEMPLATE=chat/x\.jinja: .* write \./ before a path"):
        load_spec(SPEC | {"JOB_CHAT_TEMPLATE": "chat/x.jinja"})


def test_another_template_is_another_run():
    prints = {load_spec(SPEC | {"JOB_CHAT_TEMPLATE": text}).fingerprint for text in ("", "chatml", "plain", "org/m")}

    assert len(prints) == 4


def test_a_file_is_read_as_it_is(tmp_path):
    (tmp_path / "x.jinja").write_bytes(b"\xef\xbb\xbf" + MARKED.encode())

    choice = find_chat_template(str(tmp_path / "x.jinja"))

    assert (choice.source, choice.added_tokens) == (MARKED, {})
    assert str(choice) == f"{tmp_path}/x.jinja (JOB_CHAT_TEMPLATE)"


Write = Callable[..., Path]


@pytest.fixture
def write_donor(tmp_path: Path) -> Write:
    """Writes the tokenizer files of another model."""

    def write(config: object, template: str = "", tokens: dict[str, bool] | None = None) -> Path:
        folder = tmp_path / "donor"
        folder.mkdir()
        (folder / "tokenizer_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        added = [{"content": text, "special": special} for text, special in (tokens or {}).items()]
        (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
        if template:
            (folder / "chat_template.jinja").write_text(template)
        return folder

    return write


@pytest.mark.parametrize(
    ("config", "template"),
    [
        ({"chat_template": MARKED}, ""),
        ({"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": MARKED}]}, ""),
        ({"chat_template": "an older one"}, MARKED),
        ({}, MARKED),
    ],
    ids=["in the configuration", "several", "the file comes first", "the file alone"],
)
def test_a_models_template_is_found_where_transformers_keeps_it(write_donor: Write, config, template):
    assert find_chat_template(str(write_donor(config, template))).source == MARKED


def test_of_a_models_tokens_those_come_along_that_its_template_writes(write_donor: Write):
    tokens = {"<|im_end|>": True, "<call>": False, "<|reserved|>": True, " ": False}

    choice = find_chat_template(str(write_donor({}, "{{ '<|im_end|> <call>' }}", tokens)))

    assert choice.added_tokens == {"<|im_end|>": True, "<call>": False}


def test_a_template_is_read_from_s3_and_from_the_hub(s3_server, hub_server):
    s3_server.put("bucket", "t/x.jinja", MARKED.encode())
    hub_server.add("org/chat", {"chat_template.jinja": CHATML.encode(), "deep/y.jinja": MARKED.encode()})

    assert find_chat_template("s3://bucket/t/x.jinja").source == MARKED
    assert find_chat_template("hf://org/chat/deep/y.jinja").source == MARKED
    assert find_chat_template("org/chat").source == find_chat_template("hf://org/chat").source == CHATML


def test_a_template_is_not_worked_out_where_it_is_found(tmp_path):
    source = "{{ 'x' * 10 ** 12 }}"
    (tmp_path / "x.jinja").write_text(source)

    assert find_chat_template(str(tmp_path / "x.jinja")).source == source


# What is refused


@pytest.mark.parametrize(
    ("content", "error", "reason"),
    [
        (b" \n\t", BadSpec, "the template is empty"),
        (b"{% for m in messages %}\n{{ m.role }}\n{% endif %}", BadSpec, r"not valid Jinja \(line 3"),
        (b"{{ messages | no_such_filter }}", BadSpec, r"not valid Jinja \(line 1: no filter is named"),
        (b"{% generation %}{{ messages }}", BadSpec, "not valid Jinja"),
        (b"{{" + b"(" * 100_000, BadSpec, "nested too deeply"),
        (b"caf\xe9", BadSpec, "not UTF-8 text"),
        (b"x" * (2**20 + 1), BadSpec, "1,048,577 bytes"),
        (None, NotFound, "does not exist"),
    ],
)
def test_a_file_that_is_no_template_is_refused(tmp_path, content, error, reason):
    path = tmp_path / "x.jinja"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(error, match=rf"^JOB_CHAT_TEMPLATE={path}: .*{reason}") as refused:
        find_chat_template(str(path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("config", "error", "reason"),
    [
        ({}, NotFound, "neither chat_template.jinja nor a chat_template in tokenizer_config.json"),
        ({"chat_template": [{"name": "tool_use", "template": "x"}]}, NotFound, "neither"),
        ({"chat_template": None}, NotFound, "neither"),
        ({"chat_template": "x" * (2**20 + 1)}, BadSpec, "1,048,577 characters"),
        ("{", BadSpec, "tokenizer_config.json is not valid JSON"),
        ("[]", BadSpec, "tokenizer_config.json is no JSON object"),
        ({"chat_template": ["x"]}, BadSpec, "not as transformers writes them"),
    ],
)
def test_a_model_without_a_usable_template_is_refused(write_donor: Write, config, error, reason):
    folder = write_donor(config)

    with pytest.raises(error, match=f"^JOB_CHAT_TEMPLATE={folder}: .*{reason}"):
        find_chat_template(str(folder))


def test_a_missing_repository_is_not_found_and_without_a_token_not_allowed(hub_server, monkeypatch):
    with pytest.raises(NotFound, match="JOB_CHAT_TEMPLATE=org/missing: "):
        find_chat_template("org/missing")

    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(AccessDenied, match="JOB_CHAT_TEMPLATE=org/missing: "):
        find_chat_template("org/missing")


def test_a_row_that_the_chosen_template_cannot_render_names_it(make_tokenizer: MakeTokenizer):
    broken = ChatTemplateChoice(name="./x.jinja", reason="JOB_CHAT_TEMPLATE", source="{{ nobody.said }}")

    (problem,) = RowTokenizer(make_tokenizer(MARKED), broken)([("rows.jsonl:4", Chat(CHAT, None))])

    assert isinstance(problem, BadData)
    assert problem.cause.startswith("rows.jsonl:4: the chat template ./x.jinja (JOB_CHAT_TEMPLATE) ")


# What the tokenizer is given


def test_lacking_tokens_are_added_once_as_what_they_are_and_survive_saving(make_tokenizer: MakeTokenizer, tmp_path):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(make_tokenizer())
    known = len(tokenizer)
    tokens = {"</s>": True, "<call>": False, "<|im_end|>": True}
    choice = ChatTemplateChoice(name="x", source=MARKED, added_tokens=tokens, eos_token="<|im_end|>")

    assert adopt(tokenizer, choice) == [known, known + 1]
    assert adopt(tokenizer, choice) == []

    tokenizer.save_pretrained(tmp_path / "saved")
    saved = PreTrainedTokenizerFast.from_pretrained(tmp_path / "saved")
    ids = saved("x<call>y<|im_end|>").input_ids
    assert [known, known + 1] == [ids[1], ids[3]]
    assert saved.decode(ids, skip_special_tokens=True) == "x<call>y"
    assert (saved.chat_template, saved.eos_token) == (MARKED, "<|im_end|>")


def test_an_added_token_is_found_in_the_middle_of_a_text_that_is_normalized(make_tokenizer: MakeTokenizer, tmp_path):
    """Tokenizers after Llama 2's pattern put a mark before every text, their added tokens' own included."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(make_tokenizer())
    tokenizer.backend_tokenizer.normalizer = normalizers.Prepend("_")
    (call,) = adopt(tokenizer, ChatTemplateChoice(name="x", added_tokens={"<call>": False}))

    assert call in tokenizer("x<call>y").input_ids


def test_a_tokenizer_keeps_its_own_template_unless_another_is_asked_for(make_tokenizer: MakeTokenizer):
    folder = make_tokenizer(MARKED)

    assert load_tokenizer(folder, None).chat_template == OWN
    assert load_tokenizer(folder, None).tokenizer.chat_template == MARKED
    assert load_tokenizer(folder, BUILT_IN["plain"]).tokenizer.chat_template == BUILT_IN["plain"].source


def test_the_end_token_is_the_one_that_the_chosen_template_ends_turns_with(make_tokenizer: MakeTokenizer):
    other = MARKED.replace("</s>", "<eot>")
    donor = ChatTemplateChoice(name="org/m", source=other, added_tokens={"<eot>": True, "<s>": True})

    loaded = load_tokenizer(make_tokenizer(), donor)

    assert (loaded.tokenizer.eos_token, loaded.chat_template.eos_token) == ("<eot>", "<eot>")
    same = load_tokenizer(make_tokenizer(), donor.model_copy(update={"source": MARKED}))
    assert (same.tokenizer.eos_token, same.chat_template.eos_token) == ("</s>", None)


@pytest.mark.parametrize("name", ["default", "chatml", "plain"])
def test_a_tokenizer_without_an_end_token_needs_a_template_that_brings_one(make_tokenizer: MakeTokenizer, name):
    folder = make_tokenizer(eos_token=None)

    if name == "chatml":
        assert load_tokenizer(folder, BUILT_IN[name]).tokenizer.eos_token == "<|im_end|>"
    else:
        with pytest.raises(BadData, match=r"JOB_MODEL has no eos_token.*JOB_CHAT_TEMPLATE=chatml"):
            load_tokenizer(folder, BUILT_IN.get(name))


# What the built-in templates write and train


def test_the_default_writes_headers_in_plain_words_and_trains_the_end_token(make_tokenizer: MakeTokenizer):
    rows = RowTokenizer(make_tokenizer())

    assert rows.chat_template == DEFAULT
    assert rows.taught.end_of_turn == ("</s>", "</s>")
    assert pieces(rows, Chat(CHAT, None)) == [
        (False, "<s>### System:\nBe brief.\n\n### User:\nHi\n\n### Assistant:\n"),
        (True, "Hello</s>"),
        (False, "\n\n### User:\nBye\n\n### Assistant:\n"),
        (True, "Ciao</s>"),
    ]


def test_chatml_writes_its_own_tokens_and_trains_the_end_of_a_turn(make_tokenizer: MakeTokenizer):
    rows = RowTokenizer(make_tokenizer(), BUILT_IN["chatml"])

    assert rows.taught.end_of_turn == ("<|im_end|>", "<|im_end|>")
    assert pieces(rows, Chat(CHAT[1:], None)) == [
        (False, "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
        (True, "Hello<|im_end|>"),
        (False, "\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"),
        (True, "Ciao<|im_end|>"),
        (False, "\n"),
    ]


@pytest.mark.parametrize("name", ["chatml", "plain"])
def test_a_prompt_and_its_completion_are_split_where_the_answer_begins(make_tokenizer: MakeTokenizer, name):
    rows = RowTokenizer(make_tokenizer(), BUILT_IN[name])

    assert "".join(text for trained, text in pieces(rows, Chat(CHAT[1:3], 1)) if trained).startswith("Hello<")


@pytest.mark.parametrize("name", ["chatml", "plain"])
def test_tools_and_calls_are_written_and_the_calls_trained(make_tokenizer: MakeTokenizer, name):
    rows = RowTokenizer(make_tokenizer(), BUILT_IN[name])
    as_text = json.loads(json.dumps(TURNS))
    as_text[2]["tool_calls"] = [{"name": "look", "arguments": '{"at": "sky"}'}]
    del as_text[2]["content"]

    row = pieces(rows, Chat(TURNS, None, tools=[{"name": "look"}]))

    assert row == pieces(rows, Chat(as_text, None, tools=[{"name": "look"}]))
    call, answer = (text for trained, text in row if trained)
    assert call.startswith('<tool_call>\n{"name": "look", "arguments": {"at": "sky"}}\n</tool_call><')
    assert answer.startswith("Sunny.<")
    given = "".join(text for trained, text in row if not trained)
    assert '{"name": "look"}' in given
    assert "sun" in given


# The default, and what is recorded of it


def rows_of(*fields: dict[str, object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in fields)


MESSAGES = {"messages": CHAT}
ALPACA = {"instruction": "Add.", "output": "3"}


@pytest.mark.parametrize(
    ("template", "row", "recorded"),
    [
        (None, MESSAGES, "plain (the default, as the tokenizer has none)"),
        (None, {"prompt": CHAT[:2], "completion": CHAT[2:3]}, "plain (the default, as the tokenizer has none)"),
        (None, {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, str(DEFAULT)),
        (MARKED, MESSAGES, "the tokenizer's own"),
        (MARKED, ALPACA, "the tokenizer's own"),
        (None, ALPACA, None),
        (None, {"prompt": "a", "completion": "b"}, None),
        (MARKED, {"text": "a"}, None),
    ],
)
def test_what_rendered_the_conversations_is_recorded(tmp_path, make_tokenizer: MakeTokenizer, template, row, recorded):
    prepared = prepare(task(tmp_path, make_tokenizer(template), rows_of(row), max_length=512), tmp_path)

    assert (str(prepared.chat_template) if prepared.chat_template else None) == recorded


def test_a_chosen_template_is_recorded_with_the_end_token_it_brings(tmp_path, make_tokenizer: MakeTokenizer):
    chatml = BUILT_IN["chatml"]
    job = task(tmp_path, make_tokenizer(), rows_of({"text": "a"}), chat_template=chatml)

    prepared = prepare(job, tmp_path)

    assert prepared.chat_template == chatml.model_copy(update={"eos_token": "<|im_end|>"})
    assert str(prepared.chat_template) == "chatml (JOB_CHAT_TEMPLATE)"


def test_alpaca_rows_become_chats_only_by_a_template_that_is_not_the_default(tmp_path, make_tokenizer: MakeTokenizer):
    folder, row = make_tokenizer(), Row("f:1", ALPACA)
    kinds = []
    for chosen in (None, BUILT_IN["plain"]):
        job = task(tmp_path, folder, "", chat_template=chosen)
        reading = make_reading(job, RowTokenizer(folder, chosen))
        kinds.append(isinstance(to_example(row, "alpaca", reading), Chat))

    assert kinds == [False, True]


def test_rows_prepared_with_another_template_are_other_rows(tmp_path, make_tokenizer: MakeTokenizer):
    spec = JobSpec(model="org/m", dataset_uri="org/d", work_dir=tmp_path)
    shop = open_workshop(spec, os.environ, tmp_path / "log", StopRequest(), show=lambda _: None)
    job = task(tmp_path, make_tokenizer(), rows_of(MESSAGES), max_length=512)

    by_default, _ = prepare_in_child(job, shop)
    chatml, prepared = prepare_in_child(job.model_copy(update={"chat_template": BUILT_IN["chatml"]}), shop)

    assert by_default != chatml
    assert str(prepared.chat_template) == "chatml (JOB_CHAT_TEMPLATE)"
