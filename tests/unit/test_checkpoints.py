"""Which checkpoint a run goes on from."""

from pathlib import Path

import pytest

from job.checkpoints import LAYOUT, is_complete, newest_checkpoint
from job.records import Layout, Plan
from job.rundir import write_json

COMMON = ["scheduler.pt", "trainer_state.json", "rng_state_0.pth", "rng_state_1.pth"]
PARTS = ["zero_pp_rank_0_mp_rank_00", "zero_pp_rank_1_mp_rank_00"]
OPTIMIZERS = [f"global_step20/bf16_{part}_optim_states.pt" for part in PARTS]
FILES = {
    "single": ["optimizer.pt", "adapter_model.safetensors"],
    "ddp": ["optimizer.pt", "adapter_model.safetensors"],
    "fsdp": ["optimizer.bin", "pytorch_model_fsdp.bin"],
    "zero2": ["latest", "global_step20/mp_rank_00_model_states.pt", *OPTIMIZERS],
    "zero3": ["latest", *(f"global_step20/{part}_model_states.pt" for part in PARTS), *OPTIMIZERS],
}


def plan(strategy: str, num_processes: int = 2, **settings: str) -> Plan:
    return Plan(
        strategy=strategy, num_processes=num_processes, per_device_train_batch_size=1, use_gpu=True,
        gradient_accumulation_steps=1, global_batch_size=2, packing=False, gradient_checkpointing=True, max_length=8,
        reasons={}, **({"precision": "bf16"} | settings),
    )  # fmt: skip


def write(folder: Path, strategy: str, step: int = 20, precision: str = "bf16") -> Path:
    """A checkpoint as two processes leave it."""
    checkpoint = folder / f"checkpoint-{step}"
    for name in COMMON + FILES[strategy]:
        path = checkpoint / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("content")
    layout = Layout(
        step=step, strategy=strategy, num_processes=2, precision=precision, adapter_dtype="fp32", quantization="none",
        eval_loss=None, save_s=1.0,
    )  # fmt: skip
    write_json(checkpoint / LAYOUT, layout)
    return checkpoint


def test_the_newest_is_the_one_of_the_highest_step(tmp_path):
    for step in (900, 1000, 95):
        write(tmp_path, "single", step)
    (tmp_path / "README.md").touch()

    assert newest_checkpoint(tmp_path, plan("single")).name == "checkpoint-1000"


def test_without_a_checkpoint_a_run_begins_at_the_first_step(tmp_path):
    assert newest_checkpoint(tmp_path, plan("single")) is None
    assert newest_checkpoint(tmp_path / "nowhere", plan("single")) is None


@pytest.mark.parametrize("strategy", FILES)
def test_a_checkpoint_that_lacks_a_file_is_passed_over_for_the_one_before(tmp_path, strategy):
    before, whole = write(tmp_path, "single", 10), write(tmp_path, strategy)
    assert is_complete(whole, plan(strategy))

    for name in [*COMMON, *FILES[strategy], LAYOUT]:
        content = (whole / name).read_text()
        (whole / name).unlink()
        assert not is_complete(whole, plan(strategy)), name
        (whole / name).touch()
        assert not is_complete(whole, plan(strategy)), f"{name} is empty"
        if strategy == "single":
            assert newest_checkpoint(tmp_path, plan(strategy)) == before
        (whole / name).write_text(content)


def test_checkpoints_of_another_strategy_or_of_fewer_processes_are_passed_over(tmp_path):
    write(tmp_path, "ddp")
    assert newest_checkpoint(tmp_path, plan("fsdp")) is None
    assert newest_checkpoint(tmp_path, plan("zero3")) is None

    for strategy in ("fsdp", "zero3"):
        write(tmp_path / strategy, strategy)
        assert newest_checkpoint(tmp_path / strategy, plan(strategy, num_processes=4)) is None


def test_plain_processes_go_on_from_a_checkpoint_of_any_number_of_them(tmp_path):
    checkpoint = write(tmp_path, "ddp")

    assert newest_checkpoint(tmp_path, plan("single", num_processes=1)) == checkpoint
    assert newest_checkpoint(tmp_path, plan("ddp", num_processes=4)) == checkpoint


@pytest.mark.parametrize("change", [{"quantization": "nf4"}, {"precision": "fp16"}, {"adapter_dtype": "bf16"}])
def test_checkpoints_of_other_numbers_are_passed_over(tmp_path, change):
    write(tmp_path, "ddp")

    assert newest_checkpoint(tmp_path, plan("ddp", **change)) is None


def test_in_fp16_the_loss_scale_is_needed_too(tmp_path):
    checkpoint = write(tmp_path, "single", precision="fp16")
    assert not is_complete(checkpoint, plan("single", precision="fp16"))

    (checkpoint / "scaler.pt").write_text("content")

    assert is_complete(checkpoint, plan("single", precision="fp16"))
