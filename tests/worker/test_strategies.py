"""Every strategy trains the same adapter, saves it whole, and goes on from its own checkpoint."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from job.chat_template import BUILT_IN
from job.child import read_error
from job.compatibility import adapter_dtypes
from job.prepare.load import load_tokenizer
from job.rundir import read_record
from job.train.model import DTYPES
from tests.thorough import some
from tests.tiny import write_base_model
from tests.worker.inside import Seen
from tests.worker.strategies import (
    SAVE_STEPS,
    SHARDED,
    STEPS,
    STRATEGIES,
    Inputs,
    Run,
    logits_of,
    make_inputs,
    make_run,
    resumed,
)

pytestmark = pytest.mark.slow

EVERY = some(
    (
        (strategy, quantization)
        for quantization in ("none", "nf4", "int8")
        for strategy in STRATEGIES
        if adapter_dtypes(strategy, quantization, "fp32")
    ),
    always=[(strategy, "none") for strategy in STRATEGIES]
    + [("single", "nf4"), ("fsdp", "nf4"), ("single", "int8"), ("ddp", "int8")],
)
Trained = Callable[..., Run]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("strategies"))


@pytest.fixture(scope="module")
def trained(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A finished run under a strategy; each is trained once, whoever asks."""
    runs: dict[tuple[Any, ...], Run] = {}

    def train(strategy: str, **plan: Any) -> Run:
        key = (strategy, *sorted(plan.items()))
        if key not in runs:
            root = tmp_path_factory.mktemp("run") / "run"
            runs[key] = make_run(inputs, root, strategy, save_steps=SAVE_STEPS, **plan).execute()
        return runs[key]

    return train


@pytest.mark.parametrize(("strategy", "quantization"), EVERY)
def test_every_strategy_gives_the_same_losses(trained, strategy, quantization):
    one, run = (trained(name, quantization=quantization) for name in ("single", strategy))

    assert len(run.losses) == STEPS
    assert run.losses == pytest.approx(one.losses, abs=1e-3)
    assert run.losses[-1] < run.losses[0]


@pytest.mark.parametrize(("strategy", "quantization"), EVERY)
def test_every_saved_adapter_is_whole_and_gives_the_same_logits_in_plain_peft(trained, strategy, quantization):
    one, run = (trained(name, quantization=quantization) for name in ("single", strategy))
    tensors, expected = (load_file(each.adapter / "adapter_model.safetensors") for each in (run, one))

    assert {name: tensor.shape for name, tensor in tensors.items()} == {n: t.shape for n, t in expected.items()}
    assert {tensor.dtype for tensor in tensors.values()} == {DTYPES[run.plan.adapter_dtype]}
    assert sum(tensor.numel() for tensor in tensors.values()) == run.result.adapter.trainable_parameters
    assert run.result.adapter.changed_tensors == len(tensors)
    # The adapter moves logits by 1. Adam makes of a gradient that is nothing but rounding a step as long as any, and
    # how sums are rounded depends on the processor: 1e-5 on one, 7e-5 on another. Quantized layers round once more:
    # where that falls the other way, 1e-3 is left.
    torch.testing.assert_close(logits_of(run), logits_of(one), rtol=0, atol=1e-3 if quantization == "none" else 5e-3)


def test_an_adapter_that_zero3_has_shared_out_is_saved_whole(inputs, tmp_path):
    """DeepSpeed leaves tensors below 100,000 elements whole on every rank, so this one is made of larger ones."""
    run = make_run(inputs, tmp_path / "run", "zero3")
    run = replace(run, settings=run.settings | {"lora_r": 2048, "max_steps": 2}).execute()

    tensors = load_file(run.adapter / "adapter_model.safetensors")

    assert {tensor.shape[0 if "lora_A" in name else 1] for name, tensor in tensors.items()} == {2048}
    assert sum(tensor.numel() for tensor in tensors.values()) == run.result.adapter.trainable_parameters
    assert all(tensor.any() for tensor in tensors.values())


WHOLE = {"quantization": "none"}
# Adapters of 16 bits over a quantized base are the hardest to bring back.
HARDEST = {"quantization": "nf4", "precision": "bf16", "adapter_dtype": "bf16"}


@pytest.mark.parametrize(
    ("strategy", "plan"),
    some(
        [(strategy, plan) for plan in (WHOLE, HARDEST) for strategy in STRATEGIES],
        always=[*((strategy, WHOLE) for strategy in STRATEGIES), ("fsdp", HARDEST)],
    ),
    ids=lambda value: value if isinstance(value, str) else value["quantization"],
)
def test_a_resumed_run_goes_on_as_if_nothing_had_happened(trained, tmp_path, strategy, plan):
    run = trained(strategy, **plan)

    again = resumed(run, tmp_path / "again")

    assert again.result.resumed_at_step == SAVE_STEPS
    assert again.losses == run.losses
    assert again.result.train_loss == pytest.approx(run.result.train_loss, abs=1e-9)
    assert again.result.tokens == run.result.tokens
    tensors, expected = (load_file(each.adapter / "adapter_model.safetensors") for each in (again, run))
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_checkpoint_holds_weights_of_the_base_or_credentials(trained, strategy):
    checkpoint = trained(strategy, quantization="none").files.checkpoints / f"checkpoint-{SAVE_STEPS}"
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    names = [name for path in files if path.match("*model*") for name in model_tensors(path)]

    assert names
    assert [name for name in names if "lora_" not in name] == []
    assert not [path.name for path in files if path.name == "training_args.bin"]


def model_tensors(path: Path) -> list[str]:
    if path.suffix == ".safetensors":
        return list(load_file(path))
    content = torch.load(path, weights_only=False)
    return list(content.get("module", content))


def test_a_checkpoint_without_its_optimizer_is_refused_and_not_resumed_with_a_fresh_one(trained, tmp_path):
    run = trained("single", quantization="none")
    broken = tmp_path / f"checkpoint-{SAVE_STEPS}"
    shutil.copytree(run.files.checkpoints / broken.name, broken)
    (broken / "optimizer.pt").unlink()

    again = replace(run, root=tmp_path / "again", resume_from=broken)
    ended = again.attempt()

    assert ended.returncode
    assert "lacks files that single needs" in why_it_failed(again)


def why_it_failed(run: Run) -> str:
    error, _ = read_error(run.files.error(0))
    return str(error)


def look_inside(inputs: Inputs, root: Path, strategy: str, **plan: Any) -> list[Seen]:
    run = replace(make_run(inputs, root, strategy, **plan), module="tests.worker.inside").execute()
    return [read_record(root / f"inside{rank}.json", Seen) for rank in range(run.plan.num_processes)]


def test_fsdp_shares_the_base_and_leaves_log_probabilities_unrounded(inputs, tmp_path):
    seen = look_inside(inputs, tmp_path / "run", "fsdp", precision="bf16")

    for rank in seen:
        assert rank.log_probs_dtype == "torch.float32"
        assert not rank.log_probs_rounded
        assert rank.held_bytes < 0.7 * rank.loaded_bytes


def test_zero3_loads_on_each_rank_its_share_only(inputs, tmp_path):
    (whole,) = look_inside(inputs, tmp_path / "single", "single")
    seen = look_inside(inputs, tmp_path / "zero3", "zero3")

    assert [rank.loaded_bytes for rank in seen] == [whole.loaded_bytes // 2] * 2


@pytest.mark.parametrize("strategy", ["fsdp", "zero3"])
def test_a_base_in_the_hosts_memory_gives_the_same_losses(trained, strategy):
    offloaded = trained(strategy, cpu_offload=True)

    assert offloaded.losses == pytest.approx(trained(strategy, quantization="none").losses, abs=1e-3)


def test_a_single_gpu_too_can_leave_the_base_in_the_hosts_memory(trained):
    offloaded = trained("fsdp", num_processes=1, cpu_offload=True)

    assert offloaded.losses == pytest.approx(trained("single", quantization="none").losses, abs=1e-3)


@pytest.mark.parametrize("strategy", SHARDED)
def test_new_tokens_are_trained_under_sharding_or_refused(inputs, tmp_path, strategy):
    base = write_base_model(tmp_path / "base", inputs.model)
    choice = load_tokenizer(base, BUILT_IN["chatml"]).chat_template
    run = replace(make_run(inputs, tmp_path / "run", strategy), inputs=Inputs(base, inputs.data), chat_template=choice)

    ended = run.attempt()

    if strategy == "zero3":
        assert why_it_failed(run).startswith("JOB_STRATEGY=zero3 cannot train the new tokens <|im_start|>, <|im_end|>")
        return
    assert ended.returncode == 0, ended.stdout[-3000:]
    rows = [t for n, t in load_file(run.adapter / "adapter_model.safetensors").items() if "trainable_tokens" in n]
    assert [row.shape for row in rows] == [(2, 64)] * 2


def test_a_plan_that_upstream_would_run_in_another_way_is_refused(inputs, tmp_path):
    """Without GPUs accelerate runs DDP where FSDP is asked for."""
    run = replace(make_run(inputs, tmp_path / "run", "fsdp", use_gpu=False), shim=False)

    assert run.attempt().returncode
    assert "The plan says fsdp, but accelerate runs" in why_it_failed(run)
