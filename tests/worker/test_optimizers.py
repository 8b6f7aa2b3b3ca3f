"""Every optimizer under every strategy that shares its states out: a run goes on from them as if never stopped."""

from pathlib import Path

import pytest

from job.compatibility import OPTIMIZERS_OF
from job.optimizers import OPTIMIZERS
from tests.thorough import some
from tests.worker.strategies import SAVE_STEPS, SHARDED, Inputs, make_inputs, make_run, resumed

pytestmark = pytest.mark.slow

CASES = [(strategy, optim) for strategy in SHARDED for optim in OPTIMIZERS_OF.get(strategy, OPTIMIZERS)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("inputs"), rows=40)


@pytest.mark.parametrize(("strategy", "optim"), some(CASES, always=[("zero3", "rmsprop")]))
def test_a_run_that_died_goes_on_as_if_it_had_not(inputs: Inputs, tmp_path: Path, strategy: str, optim: str) -> None:
    run = make_run(inputs, tmp_path / "whole", strategy, save_steps=SAVE_STEPS, optim=optim).execute()

    again = resumed(run, tmp_path / "again")

    assert len(set(run.losses)) == len(run.losses), "nothing was learned"
    assert again.losses == run.losses
