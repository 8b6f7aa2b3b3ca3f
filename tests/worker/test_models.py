"""The golden facts of real models are what transformers builds from their configurations today."""

import pytest

from job.activations import knows
from tests.models import DRY_RUNS, GOLDEN, MODELS, dry_run, golden_dry_run, golden_facts, golden_path, model_facts


@pytest.mark.parametrize("name", MODELS)
def test_a_golden_model_has_as_many_parameters_as_the_hub_shows(name):
    assert golden_facts(name).parameters == MODELS[name][0]


@pytest.mark.parametrize("name", MODELS)
def test_golden_facts_are_what_transformers_builds(name):
    assert model_facts(name) == golden_facts(name)


def test_no_golden_facts_are_left_of_a_model_that_is_gone():
    assert set(GOLDEN.iterdir()) == {golden_path(name) for name in MODELS}


def test_every_model_that_the_formula_does_not_know_has_a_golden_dry_run():
    unknown = {name for name, (_, config) in MODELS.items() if not knows(config)}

    assert unknown
    assert set(DRY_RUNS.iterdir()) == {golden_path(name, DRY_RUNS) for name in unknown}
    assert [golden_dry_run(name).failure for name in unknown] == [None] * len(unknown)


def test_a_golden_dry_run_is_what_upstreams_code_holds_today():
    name = "mistralai/Mixtral-8x7B-v0.1"

    assert dry_run(name) == golden_dry_run(name)


@pytest.mark.parametrize(
    ("name", "experts", "shape"),
    [
        ("mistralai/Mixtral-8x7B-v0.1", 32 * 8, (4096, 14336)),
        ("Qwen/Qwen3-30B-A3B", 48 * 128, (2048, 768)),
    ],
)
def test_experts_stand_one_by_one_as_in_published_weights(name, experts, shape):
    groups = [group for group in golden_facts(name).tensors if ".experts.*." in group.name and group.shape == shape]

    assert [group.count for group in groups] == [experts]
