"""dpo, kto and reward against TRL's own trainers, under every strategy, and resumed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.utils.data import SequentialSampler

from job.records import TrainTask
from job.rundir import write_json
from job.spec import JobSpec
from job.train.kto import KtoTrainer
from job.train.story import train
from tests.tiny import write_model
from tests.worker.preferences import bare_losses, make_preferences, write_pairs
from tests.worker.strategies import SAVE_STEPS, STEPS, STRATEGIES, Inputs, Run, make_run

pytestmark = pytest.mark.slow
METHODS = ("dpo", "kto", "reward")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Inputs]:
    folder = tmp_path_factory.mktemp("inputs")
    write_pairs(folder / "corpus.jsonl")
    model = write_model(folder / "model", folder / "corpus.jsonl", vocab_size=1024)
    return {method: make_preferences(folder / method, method, model) for method in METHODS}


@pytest.fixture(scope="module")
def bare(inputs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """TRL's own losses."""
    found = {}
    for method in METHODS:
        run = run_of(inputs, tmp_path_factory.mktemp("bare"), method)
        found[method] = bare_losses(inputs[method], run.plan, run.settings, run.root)
        assert len(found[method]) == STEPS
        assert found[method][0] != found[method][-1]
    return found


def run_of(inputs: dict[str, Inputs], root: Path, method: str, strategy: str = "single", **settings: int) -> Run:
    run = make_run(inputs[method], root, strategy)
    return replace(run, settings=run.settings | {"method": method, "learning_rate": 1e-3} | settings)


def train_here(run: Run) -> Run:
    """*run* in this process."""
    task = TrainTask(
        model_path=run.inputs.model, data_path=run.inputs.data, base_model_name="org/m", base_model_revision=None,
        has_eval=False, resume_from=run.resume_from, start=run.start,
    )  # fmt: skip
    spec = JobSpec(model="org/m", dataset_uri="org/d", output_uri=(str(run.root),), **run.settings)
    for path, record in ((run.files.spec, spec), (run.files.plan, run.plan), (run.files.train_task, task)):
        write_json(path, record)
    run.files.beat(0).parent.mkdir(parents=True, exist_ok=True)
    run.files.beat(0).touch()
    train(run.files, 0)
    return run


def in_file_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream's kto reads the rows as they stand."""
    monkeypatch.setattr(KtoTrainer, "_get_train_sampler", lambda self, rows=None: SequentialSampler(self.train_dataset))


@pytest.mark.parametrize("method", METHODS)
def test_losses_equal_a_bare_trl_script_and_a_resumed_run_has_the_same(inputs, bare, method, tmp_path, monkeypatch):
    in_file_order(monkeypatch)
    run = train_here(run_of(inputs, tmp_path / "whole", method, save_steps=SAVE_STEPS))

    assert run.losses == pytest.approx(bare[method], abs=1e-6)

    checkpoint = run.files.checkpoints / f"checkpoint-{SAVE_STEPS}"
    again = train_here(replace(run, root=tmp_path / "resumed", resume_from=checkpoint))
    assert again.losses == run.losses
    ours, theirs = (load_file(one.adapter / "adapter_model.safetensors") for one in (run, again))
    assert all(ours[name].equal(theirs[name]) for name in ours)
    assert ("score" in " ".join(ours)) is (method == "reward")


TOLD = {"dpo": {"rewards/margins", "rewards/accuracies"}, "reward": {"accuracy", "margin"}}


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
@pytest.mark.parametrize("method", TOLD)
def test_losses_are_the_same_under_every_strategy(inputs, bare, method, strategy, tmp_path):
    run = run_of(inputs, tmp_path, method, strategy).execute()

    assert run.losses == pytest.approx(bare[method], abs=1e-6)
    assert TOLD[method] <= run.result.history[-1].values.keys()


def test_losses_of_kto_are_the_same_however_two_processes_share_the_model(inputs, tmp_path):
    """Its KL is an estimate over the rows of a micro-batch: one process with as many rows has another."""
    runs = [run_of(inputs, tmp_path / strategy, "kto", strategy).execute() for strategy in STRATEGIES[1:]]

    for run in runs[1:]:
        assert run.losses == pytest.approx(runs[0].losses, abs=1e-6)
    assert runs[0].losses[0] != runs[0].losses[-1]


def test_an_epoch_has_whole_steps_and_so_the_same_for_one_process_and_for_two(inputs, tmp_path):
    """90 rows in steps of 8: 11 steps, of which the last two rows of the order are left out."""
    one, two = (
        run_of(inputs, tmp_path / strategy, "dpo", strategy, max_steps=13).execute() for strategy in ("single", "ddp")
    )

    assert two.losses == pytest.approx(one.losses, abs=1e-6)
    epochs = [entry.values["epoch"] for entry in one.result.history]
    assert epochs[10] == 1.0


def test_a_reward_model_says_what_its_head_is(inputs, tmp_path):
    run = train_here(run_of(inputs, tmp_path, "reward", max_steps=2))

    config = json.loads((run.adapter / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS"
    assert "score" in config["modules_to_save"]
    assert {"accuracy", "margin"} <= run.result.history[-1].values.keys()
