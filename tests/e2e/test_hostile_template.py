"""A model whose chat template never ends is refused as bad data, by the program and within its usual time."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.job import end, start

pytestmark = pytest.mark.slow

PATIENCE_S = 60.0  # for a start, a sample and the limit on one row


def test_a_template_that_never_ends_is_65_with_the_row(env, tiny_model, tmp_path, bad_rows):
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    path = model / "chat_template.jinja"
    path.write_text("{% if 'boom' in messages[0]['content'] %}" + endless + "{% endif %}" + path.read_text())
    turns = [[{"role": "user", "content": asked}, {"role": "assistant", "content": "2"}] for asked in ("1+1", "boom")]
    rows = bad_rows("".join(json.dumps({"messages": messages}) + "\n" for messages in turns))
    del env["JOB_COLUMNS"]
    process = start(env | {"JOB_MODEL": str(model), "JOB_DATASET_URI": rows}, "check")

    try:
        ended = end(process, began=0.0, timeout_s=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.terminate()  # it ends its children; a killed one could not
        process.communicate()
        pytest.fail(f"it was still at work after {PATIENCE_S:.0f} s")

    assert ended.code == 65, ended.shown
    assert "chat template" in ended.outcome["cause"]
    assert "bad.jsonl:2: " in ended.outcome["cause"]
    assert "Traceback" not in ended.shown
