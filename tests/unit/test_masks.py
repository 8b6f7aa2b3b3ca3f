"""Chat templates whose marks leave nothing to learn, or the wrong words, are refused in terms of the template."""

import json
from pathlib import Path

import pytest

from job.errors import BadData
from job.prepare.story import prepare
from job.records import GateSettings
from tests.unit.conftest import MakeTokenizer
from tests.unit.test_prepare import task

STRICT = GateSettings(bad_rows="fail", max_bad_fraction=0.0, allow=())
ROWS = [
    [("system", "be brief"), ("user", "one?"), ("assistant", "an answer")],
    [("user", "two?"), ("assistant", "two answers"), ("user", "three?"), ("assistant", "three answers")],
]
_MARKED_IF = (
    "{%% for m in messages %%}{{ '<s>' + m['role'] + '\n' }}{%% if %s %%}"
    "{%% generation %%}{{ m['content'] + '</s>' }}{%% endgeneration %%}"
    "{%% else %%}{{ m['content'] + '</s>' }}{%% endif %%}{{ '\n' }}{%% endfor %%}"
    "{%% if add_generation_prompt %%}{{ '<s>assistant\n' }}{%% endif %%}"
)
_AROUND = "{%% for m in messages %%}%s{%% endfor %%}{%% if add_generation_prompt %%}{{ '<s>assistant\n' }}{%% endif %%}"
NOTHING_MARKED = {
    "around nothing": _AROUND
    % "{{ '<s>' + m['role'] + '\n' + m['content'] + '</s>\n' }}{% generation %}{% endgeneration %}",
    "around another role": _MARKED_IF % "m['role'] == 'model' or m['content'] == 'The second.'",
    "not in these rows": _MARKED_IF % "m['role'] == 'assistant' and 'answer' not in m['content']",
}
OTHERS_MARKED = {
    "the user": _MARKED_IF % "m['role'] == 'user'",
    "headers": _AROUND
    % "{% generation %}{{ '<s>' + m['role'] + '\n' }}{% endgeneration %}{{ m['content'] + '</s>\n' }}",
}


def refusal(tmp_path: Path, tokenizer: Path) -> BadData:
    lines = (json.dumps({"messages": [{"role": role, "content": said} for role, said in turns]}) for turns in ROWS)
    with pytest.raises(BadData) as refused:
        prepare(task(tmp_path, tokenizer, "\n".join(lines), gate=STRICT, max_length=4096), tmp_path)
    return refused.value


@pytest.mark.parametrize("name", NOTHING_MARKED)
def test_a_template_that_marks_nothing_is_refused_and_its_limit_is_not_to_blame(tmp_path, make_tokenizer, name):
    message = str(refusal(tmp_path, make_tokenizer(NOTHING_MARKED[name])))

    assert "chat template" in message
    assert "JOB_MAX_LENGTH" not in message, "nothing was cut"


@pytest.mark.parametrize("name", OTHERS_MARKED)
def test_a_template_that_marks_other_words_than_the_assistants_is_refused(tmp_path, make_tokenizer, name):
    refused = refusal(tmp_path, make_tokenizer(OTHERS_MARKED[name]))

    assert "chat template" in refused.cause
    assert refused.exit_code == 65
    assert "JOB_" in refused.fix


@pytest.mark.parametrize("form", ["messages", "prompt-completion"])
def test_a_template_that_leaves_the_answers_out_is_refused_with_the_row(tmp_path, make_tokenizer: MakeTokenizer, form):
    silent = (
        _AROUND % "{% if m['role'] != 'assistant' %}{{ '<s>' + m['role'] + '\n' + m['content'] + '</s>\n' }}{% endif %}"
    )
    turns = [{"role": role, "content": said} for role, said in ROWS[0]]
    row = {"messages": turns} if form == "messages" else {"prompt": turns[:-1], "completion": turns[-1:]}

    with pytest.raises(
        BadData, match=r"rows\.jsonl:1: the chat template of JOB_MODEL does not write what the turns say"
    ):
        prepare(task(tmp_path, make_tokenizer(silent), json.dumps(row), gate=STRICT), tmp_path)
