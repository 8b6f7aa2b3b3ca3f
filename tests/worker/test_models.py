"""The golden facts of real models are what transformers builds from their configurations today."""

import pytest

from tests.models import GOLDEN, MODELS, golden_facts, golden_path, model_facts


@pytest.mark.parametrize("name", MODELS)
def test_a_golden_model_has_as_many_parameters_as_the_hub_shows(name):
    assert golden_facts(name).parameters == MODELS[name][0]


@pytest.mark.parametrize("name", MODELS)
def test_golden_facts_are_what_transformers_builds(name):
    assert model_facts(name) == golden_facts(name)


def test_no_golden_facts_are_left_of_a_model_that_is_gone():
    assert set(GOLDEN.iterdir()) == {golden_path(name) for name in MODELS}


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
