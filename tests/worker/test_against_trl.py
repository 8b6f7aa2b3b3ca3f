"""The job against upstream: same rows, same settings, same numbers."""

import json
import random
from pathlib import Path

import pytest
from datasets import Dataset
from trl import pack_dataset

from bench.pair import Case, run_bare, run_job, unequal_steps
from job.prepare.pack import WINDOW_ROWS, pack
from tests.tiny import GSM8K, write_model, write_rows

STEPS = 8


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GSM8K where it is at hand, else sums."""
    path = tmp_path_factory.mktemp("corpus") / "rows.jsonl"
    if not GSM8K.exists():
        return write_rows(path, 200)
    path.write_text("".join(GSM8K.read_text().splitlines(keepends=True)[:200]))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), corpus, vocab_size=1024)


@pytest.mark.slow
@pytest.mark.parametrize("packing", [False, True], ids=["unpacked", "packed"])
def test_losses_equal_a_bare_trl_script_at_every_step(tmp_path, corpus, model, packing):
    case = Case(model, corpus, packing=packing, max_steps=STEPS)

    job = run_job(case, tmp_path, tmp_path / "work")
    bare = run_bare(case, tmp_path, job.plan)

    assert job.plan["packing"] is packing
    assert [entry["step"] for entry in bare.log] == list(range(1, STEPS + 1))
    assert unequal_steps(job, bare, tolerance=1e-6) == []
    for ours, theirs in zip(job.log, bare.log, strict=True):
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], abs=1e-5)
        assert theirs["loss"] > 0


@pytest.mark.parametrize("seed", range(5))
def test_packs_equal_trls(seed):
    generator = random.Random(seed)
    lengths = [min(512, max(1, round(generator.lognormvariate(4.5, 1.0)))) for _ in range(WINDOW_ROWS)]
    dataset = Dataset.from_list([{"input_ids": [index] * length} for index, length in enumerate(lengths)])

    theirs = pack_dataset(dataset, 512, "bfd")["input_ids"]

    ours = [[index for index in group for _ in range(lengths[index])] for group in pack(lengths, 512)]
    assert ours == [list(group) for group in theirs]


def test_the_generated_names_are_those_of_the_installed_trl():
    from scripts.generate import trl_names
    from tests.tiny import ROOT

    assert (ROOT / "job" / "trl_names.py").read_text() == trl_names(), "run make generate"


def test_the_generated_fields_are_those_of_the_installed_peft():
    from scripts.generate import peft_fields_module
    from tests.tiny import ROOT

    assert (ROOT / "job" / "peft_fields.py").read_text() == peft_fields_module(), "run make generate"


def test_every_owned_or_renamed_trainer_argument_exists_upstream():
    from job.trl_names import CONFIG_FIELDS
    from job.upstream import OWNED_TRAINER_ARGS, VARIABLE_FOR_TRAINER_ARG

    known = set().union(*CONFIG_FIELDS.values())
    assert known >= OWNED_TRAINER_ARGS
    assert set(VARIABLE_FOR_TRAINER_ARG) <= known


OF_OUR_OWN = ("RLOOConfig", "num_generations")


def test_settings_of_a_method_have_upstreams_defaults():
    import trl

    from job.methods import METHODS

    for method in METHODS.values():
        fields = getattr(trl, method.config).__dataclass_fields__
        for name, value in method.settings.items():
            if name not in fields or (method.config, name) == OF_OUR_OWN:
                continue
            theirs = fields[name].default_factory() if name == "loss_type" and method.sequences == 2 else None
            ours = list(value) if isinstance(value, tuple) else value
            assert ours == theirs or [fields[name].default] == ours or fields[name].default == ours, name


def test_owned_arguments_are_those_that_the_worker_sets():
    """What the worker passes to SFTConfig may come from nowhere else."""
    from job.records import Plan, TrainTask
    from job.rundir import RunDir
    from job.spec import JobSpec
    from job.train.settings import shared_settings
    from job.upstream import OWNED_TRAINER_ARGS, VARIABLE_FOR_TRAINER_ARG

    spec = JobSpec(model="org/m", dataset_uri="org/d", output_uri=("/o",))
    plan = Plan(
        strategy="cpu", num_processes=1, precision="fp32", per_device_train_batch_size=1, use_gpu=False, max_length=8,
        gradient_accumulation_steps=1, global_batch_size=1, packing=False, gradient_checkpointing=False, reasons={},
    )  # fmt: skip
    task = TrainTask(
        model_path=Path("/m"), data_path=Path("/d"), base_model_name="", base_model_revision=None, has_eval=True
    )

    settings = shared_settings(spec, plan, task, RunDir(Path("/r")), sequences=10)

    free = set(settings) - OWNED_TRAINER_ARGS - set(VARIABLE_FOR_TRAINER_ARG)
    assert free <= {"dataloader_pin_memory", "ddp_find_unused_parameters"}
    assert json.dumps(settings)
