"""A reward model as a reward scores as it did in its own training, and what scores no answers is refused."""

import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from job.errors import BadSpec, NotFound
from job.prepare.story import prepare
from job.records import DataFile, GateSettings, Plan, PrepareTask, RewardModel, TrainTask
from job.reward_model import find_reward_model
from job.rundir import RunDir
from job.spec import JobSpec
from job.train.methods import make_trainer
from job.train.reward_model import RewardJudge
from tests.tiny import write_model, write_rows

PLAN = Plan(
    strategy="cpu", num_processes=1, precision="fp32", per_device_train_batch_size=2, gradient_accumulation_steps=2,
    global_batch_size=4, packing=False, gradient_checkpointing=False, max_length=256, use_gpu=False, reasons={},
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return write_model(folder / "model", write_rows(folder / "rows.jsonl", 20))


def pairs(folder: Path, rows: Path, *, conversations: bool) -> Path:
    known = [json.loads(line) for line in rows.read_text().splitlines()]
    made = []
    for row, other in itertools.pairwise(known):
        pair = {"prompt": row["question"], "chosen": row["answer"], "rejected": other["answer"]}
        if conversations:
            role = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
            pair = {name: [{"role": role[name], "content": text}] for name, text in pair.items()}
        made.append(pair)
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in made))
    return path


def prepared(folder: Path, path: Path, model: Path) -> list[dict[str, Any]]:
    task = PrepareTask(
        method="reward", train_files=(DataFile(path=path, name=path.name, identity=""),), tokenizer=model,
        tokenizer_identity="", columns={}, format=None, response_template=None, packing=False, max_length=256,
        eval_fraction=0.0, seed=1, gate=GateSettings(bad_rows="fail", max_bad_fraction=0.5, allow=()),
    )  # fmt: skip
    prepare(task, folder)
    with pa.memory_map(str(folder / "train.arrow")) as source:
        return pa.ipc.open_stream(source).read_all().to_pylist()


@pytest.mark.slow
@pytest.mark.parametrize("conversations", [False, True], ids=["texts", "conversations"])
def test_scores_are_those_of_the_run_that_trained_the_model(model, tmp_path, conversations):
    path = pairs(tmp_path, model.parent / "rows.jsonl", conversations=conversations)
    rows = prepared(tmp_path, path, model)
    spec = JobSpec(model="org/m", dataset_uri="org/d", method="reward", max_steps=3, learning_rate=1e-2)
    task = TrainTask(
        model_path=model, data_path=tmp_path, base_model_name=str(model), base_model_revision=None, has_eval=False
    )
    trainer, _ = make_trainer(spec, PLAN, task, RunDir(tmp_path / "run"), lambda: None)
    trainer.train()
    trainer.save_model(str(tmp_path / "out" / "adapter"))
    trainer.model.eval()
    with torch.no_grad():
        own = [trainer.model(torch.tensor([row["chosen_ids"]])).logits.item() for row in rows[:5]]

    found = find_reward_model(str(tmp_path / "out")).localize(tmp_path / "cache")
    asked = [json.loads(line) for line in path.read_text().splitlines()[:5]]
    prompts = [json.dumps(row["prompt"]) if conversations else row["prompt"] for row in asked]
    answers = [row["chosen"][0]["content"] if conversations else row["chosen"] for row in asked]
    scores = RewardJudge(found, PLAN, torch.device("cpu"))(
        prompts=prompts, completions=answers, messages=prompts if conversations else [None] * 5, reference=[None] * 5
    )

    assert found == RewardModel(base=model, adapter=tmp_path / "out" / "adapter")
    assert scores == pytest.approx(own, abs=1e-5)
    assert max(scores) - min(scores) > 1e-3, "the scores tell nothing apart"


def test_a_model_that_writes_answers_is_no_reward_model(model):
    with pytest.raises(BadSpec, match=r"is a LlamaForCausalLM with . labels, which gives no score"):
        find_reward_model(str(model))


def test_an_adapter_that_writes_answers_is_no_reward_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"task_type": "CAUSAL_LM"}))

    with pytest.raises(BadSpec, match="is an adapter for CAUSAL_LM, which scores no answers"):
        find_reward_model(str(tmp_path))


def test_a_base_that_has_gone_is_told_with_the_adapter_that_needs_it(tmp_path):
    config = {"task_type": "SEQ_CLS", "base_model_name_or_path": str(tmp_path / "gone")}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))

    with pytest.raises(NotFound, match=r"JOB_REWARD_MODEL=.*, whose base is .*gone"):
        find_reward_model(str(tmp_path))
