"""What is written twice is checked: generated pages, examples, links, the configuration files the plan names."""

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from job.environment import load_spec
from job.records import Strategy
from job.reference import PAGES

ROOT = Path(__file__).resolve().parents[2]


def read_env_file(path: Path) -> dict[str, str]:
    """As docker reads it: no quotes, no expansion."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_equal_their_source(name):
    assert (ROOT / "docs" / name).read_text() == PAGES[name](), "run make generate"


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/**/*.env")), ids=lambda path: path.name)
def test_every_example_is_a_valid_spec(path):
    assert load_spec(read_env_file(path)).output_uri


@pytest.mark.parametrize("path", [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")], ids=lambda path: path.name)
def test_links_between_pages_lead_somewhere(path):
    links = re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text())

    assert [link for link in links if not (path.parent / link).exists()] == []


TOPOLOGY = {
    "single": "NO", "cpu": "NO", "ddp": "MULTI_GPU", "fsdp": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED",
}  # fmt: skip


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_every_strategy_has_its_topology_and_nothing_else_in_it(strategy):
    config = yaml.safe_load((ROOT / "accelerate_configs" / f"{strategy}.yaml").read_text())
    named = set(config) | set(config.get("fsdp_config", {})) | set(config.get("deepspeed_config", {}))

    assert config["distributed_type"] == TOPOLOGY[strategy]
    planned = ("num_processes", "mixed_precision", "gpu_ids", "offload", "checkpointing", "gradient")
    assert [name for name in named if any(word in name for word in planned)] == [], "these come from the plan"


def test_fsdp_is_the_second_and_collects_whole_tensors():
    config = yaml.safe_load((ROOT / "accelerate_configs" / "fsdp.yaml").read_text())["fsdp_config"]

    assert (config["fsdp_version"], config["fsdp_state_dict_type"]) == (2, "FULL_STATE_DICT")
