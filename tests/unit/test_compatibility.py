"""What upstream can combine. That it really does is shown by tests/worker/test_strategies.py."""

import pytest

from job.compatibility import adapter_dtypes


@pytest.mark.parametrize(
    ("combination", "expected"),
    [
        (("single", "none", "bf16"), ("fp32", "bf16")),
        (("ddp", "nf4", "bf16"), ("fp32", "bf16")),
        (("single", "nf4", "fp16"), ("fp32",)),
        (("cpu", "none", "fp32"), ("fp32",)),
        (("fsdp", "none", "bf16"), ("fp32",)),
        (("fsdp", "nf4", "bf16"), ("fp32", "bf16")),
        (("fsdp", "int8", "bf16"), ()),
        (("zero2", "none", "bf16"), ("bf16",)),
        (("zero3", "nf4", "fp16"), ("fp16",)),
    ],
)
def test_an_adapter_has_the_dtypes_that_upstream_lets_it_have(combination, expected):
    assert adapter_dtypes(*combination) == expected
