"""What a run does not use is not imported for it."""

import subprocess
import sys

import pytest

from job.unneeded import leave_out_bitsandbytes
from tests.unit.test_launch import plan

IMPORTS = """
import sys
from job.records import Plan
from job.unneeded import leave_out_bitsandbytes
leave_out_bitsandbytes(Plan.model_validate_json(sys.argv[1]))
import peft
print([name for name in ("peft", "bitsandbytes", "torch._inductor.compile_fx") if sys.modules.get(name)])
"""


def test_peft_brings_neither_bitsandbytes_nor_the_compiler():
    ended = subprocess.run(
        [sys.executable, "-c", IMPORTS, plan().model_dump_json()], capture_output=True, text=True, check=True
    )

    assert ended.stdout.strip() == "['peft']"


@pytest.mark.parametrize(
    ("settings", "left_out"),
    [
        ({}, True),
        ({"quantization": "nf4"}, False),
        ({"quantization": "int8"}, False),
        ({"optim": "paged_adamw_8bit"}, False),
        ({"optim": "adafactor"}, True),
    ],
)
def test_it_is_left_out_where_neither_base_nor_optimizer_is_of_it(monkeypatch, settings, left_out):
    monkeypatch.setattr(sys, "modules", {})

    leave_out_bitsandbytes(plan(**settings))

    assert ("bitsandbytes" in sys.modules) is left_out
