"""What was found by running every combination, and what the rules say: the same."""

import json
import re
from typing import Any

import pytest

from job.adapters import KINDS
from job.compatibility import works
from job.spec import JobSpec
from tests.tiny import ROOT

# Each is `method / adapter / quantization / strategy` -> what was wrong; nothing: it works.
RESULTS: dict[str, str] = json.loads((ROOT / "tests" / "golden" / "works.json").read_text())
# The settings of what stands after an adapter's name.
OPTIONS: dict[str, dict[str, Any]] = {
    "rsLoRA": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "PiSSA": {"init_lora_weights": "pissa"},
    "OLoRA": {"init_lora_weights": "olora"},
    "lm_head whole": {"modules_to_save": ("lm_head",)},
}


@pytest.mark.parametrize("key", RESULTS)
def test_the_rules_are_what_was_found_by_running(key):
    method, name, quantization, strategy = key.split(" / ")
    adapter, _, option = name.partition(", ")
    spec = JobSpec(model="org/m", method=method, adapter=adapter, **OPTIONS.get(option, {}))

    assert works(spec, strategy, quantization) == (RESULTS[key] == ""), RESULTS[key]


def test_every_adapter_is_in_the_table():
    table = (ROOT / "docs" / "adapters.md").read_text().split("<!-- works -->")[1].split("<!-- end of works -->")[0]
    names = {re.split("[,|]", line.strip("| "))[0].strip() for line in table.strip().splitlines()[2:]}

    assert names == set(KINDS) - {"qlora", "full"}  # lora over nf4, and none of PEFT's
