"""The arithmetic of memory: docs/memory-model.md line by line, and what each setting changes."""

import re
from pathlib import Path
from typing import Any

import pytest

from job.activations import Adapter, activations
from job.memory import GIB, Setup, base_bytes, estimate
from job.parameters import Parameters, count_parameters
from job.plan import make_plan
from job.records import Activations, DryRun, MemoryEstimate
from job.spec import JobSpec
from tests.models import golden_dry_run, golden_facts
from tests.plans import facts_for, plan_for

ALL = ("all-linear",)
DOCUMENT = Path(__file__).parents[2] / "docs" / "memory-model.md"
LLAMA = "meta-llama/Llama-3.1-8B"
LINEAR, WHOLE, ADAPTER, LARGEST = 6_979_321_856, 8_030_261_248, 41_943_040, 14336 * 4096
TOKENS = 2048
# Bytes of a token, whatever the model: the tests below change settings, not these.
PASSING = Activations(saved=1e6, boundary=1e5, layer=2e5, transient=1e4, source="formula")


def parameters(name: str = LLAMA) -> Parameters:
    return count_parameters(golden_facts(name), "lora", {"r": 16, "target_modules": list(ALL)})


def setup(**changes: Any) -> Setup:
    settings: dict[str, Any] = {
        "strategy": "single", "num_processes": 1, "quantization": "none", "precision": "bf16", "adapter_dtype": "fp32",
        "cpu_offload": False, "gradient_checkpointing": True, "per_device": 1, "length": TOKENS, "packing": True,
        "masked": True, "optim": "adamw_torch_fused", "dropout": False,
    }  # fmt: skip
    return Setup(**(settings | changes))


def lines(found: MemoryEstimate) -> dict[str, float]:
    """Bytes by the name of their line."""
    return {item.name: item.gib * GIB for item in found.items}


def held(name: str = LLAMA, **changes: Any) -> dict[str, float]:
    return lines(estimate(parameters(name), PASSING, setup(**changes), 24))


# The document


def table(heading: str, column: int) -> dict[str, float]:
    """GiB by name, from the first table after *heading*."""
    rows = DOCUMENT.read_text().split(heading)[1].split("\n\n")
    cells = [line.strip("| ").split(" | ") for line in next(part for part in rows if part.startswith("|")).splitlines()]
    return {row[0]: float(row[column]) for row in cells[2:] if re.fullmatch(r"[\d.]+", row[column])}


def test_the_document_does_what_the_plan_does():
    plan = plan_for("Llama-3.1-8B", "L4")
    document = table("# How much of a GPU a step fills", column=2)

    assert (plan.quantization, plan.per_device_train_batch_size, plan.gradient_checkpointing) == ("none", 1, True)
    assert {item.name: round(item.gib, 2) for item in plan.memory.items} | {
        "all": round(plan.memory.total_gib, 2)
    } == document
    assert plan.memory.limit_gib == 20.25


def test_every_line_of_the_document_is_arithmetic_that_can_be_done_by_hand():
    found = lines(plan_for("Llama-3.1-8B", "L4").memory)
    boundary = 2 * 4096 * 32 + 4 * 4096 + 4 * 128 + 2048
    passing = (boundary + 233_824 + 110_592) * TOKENS

    assert ADAPTER == 16 * (8192 + 5120 + 5120 + 8192 + 18432 + 18432 + 18432) * 32
    assert found == pytest.approx(
        {
            "base weights": WHOLE * 2,
            "adapter and gradients": ADAPTER * (4 + 4 + 2),
            "optimizer": ADAPTER * 8,
            "activations": boundary * TOKENS,
            "backward pass": (233_824 + 110_592) * TOKENS,
            "allocator slack": 0.05 * passing,
            "CUDA context": 0.6 * GIB,
        }
    )


def test_what_a_layer_keeps_is_the_sum_in_the_document():
    found = activations(golden_facts(LLAMA).config, Adapter("fp32", 16, 0.0, ALL), TOKENS, True)
    norms, attention, mlp = 2 * 4 * 4096, 4 * 8192 + 128 + 4096, 6 * 14336
    reads, ranks = 2 * (6 * 4096 + 14336), 7 * 2 * 16
    layer = norms + attention + mlp + reads + ranks

    assert layer == 233_824
    assert found.saved == 32 * layer + 512 + 2048 == 7_484_928
    assert found.layer + found.transient == 344_416
    assert found.boundary == 281_088


@pytest.mark.parametrize(("quantization", "column"), [("none", 1), ("nf4", 2)])
def test_the_comparison_with_published_totals_is_the_arithmetic_of_today(quantization, column):
    targets = ("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    theirs = setup(quantization=quantization, adapter_dtype="bf16", per_device=2, packing=False)
    passing = activations(golden_facts(LLAMA).config, Adapter("bf16", 8, 0.0, targets), TOKENS, True)
    found = lines(
        estimate(
            count_parameters(golden_facts(LLAMA), "lora", {"r": 8, "target_modules": list(targets)}),
            passing,
            theirs,
            24,
        )
    )

    ours = [
        found["base weights"], found["adapter and gradients"] + found["optimizer"], found["activations"],
        found["backward pass"],
    ]  # fmt: skip
    document = list(table("## Against published totals", column).values())
    assert [*ours, sum(ours)] == pytest.approx([gib * GIB for gib in document[:5]], abs=0.0051 * GIB)
    assert document[5] == (16.2 if quantization == "none" else 7.4)


# What the settings change


def test_nf4_halves_bytes_twice_for_linear_layers_alone_and_unpacks_the_largest():
    exact, packed = held(), held(quantization="nf4")

    assert packed["base weights"] == LINEAR * (0.5 + 1 / 64 + 4 / 64 / 256) + 2 * (WHOLE - LINEAR)
    assert packed["backward pass"] - exact["backward pass"] == 2 * LARGEST == 112 * 2**20


def test_int8_is_a_byte_and_its_inputs_outlive_checkpointing():
    inputs = 2 * 32 * (2 * 4096 + 4096 + 14336) * TOKENS

    assert held(quantization="int8")["base weights"] == LINEAR + 2 * (WHOLE - LINEAR)
    assert held(quantization="int8")["inputs of int8 layers"] == inputs
    assert held(quantization="int8", gradient_checkpointing=False, dropout=True)["inputs of int8 layers"] == inputs
    assert "inputs of int8 layers" not in held(quantization="int8", gradient_checkpointing=False)
    assert "inputs of int8 layers" not in held(quantization="nf4")


def test_experts_are_never_quantized():
    model = parameters("Qwen/Qwen3-30B-A3B")

    assert base_bytes(model, setup()) - base_bytes(model, setup(quantization="nf4")) < 2 * model.linear
    assert base_bytes(model, setup(quantization="nf4")) > 2 * model.experts


def test_ddp_has_the_gradients_twice():
    one, each = held(), held(strategy="ddp", num_processes=4)

    assert each["adapter and gradients"] - one["adapter and gradients"] == 4 * ADAPTER
    assert {**each, "adapter and gradients": 0} == {**one, "adapter and gradients": 0, "NCCL": 0.5 * GIB}


def test_fsdp_shares_base_adapter_and_optimizer_and_gathers_two_layers():
    one, each = held(), held(strategy="fsdp", num_processes=4)
    outside = 2 * 128_256 * 4096 + 4096

    assert each["base weights"] == one["base weights"] / 4
    assert each["gathered weights"] == 2 * outside + 2 * (WHOLE - outside) * 2 / 32
    assert each["adapter and gradients"] == ADAPTER * (4 + 4) / 4
    assert each["optimizer"] == one["optimizer"] / 4
    assert each["activations"] == one["activations"]


def test_a_model_of_one_layer_is_not_gathered_twice():
    one = Parameters(
        linear=1000, experts=0, rest=0, outside=100, head=100, layers=1, largest_linear=100, active_share=1.0,
        hidden=10, attention_width=10, linear_inputs=10, adapter=10,
    )  # fmt: skip

    found = lines(estimate(one, PASSING, setup(strategy="fsdp", num_processes=2), 24))

    assert found["gathered weights"] == 2 * one.total


@pytest.mark.parametrize(("strategy", "held_by"), [("zero2", 1), ("zero3", 4)])
def test_deepspeed_trains_a_32_bit_copy_from_32_bit_gradients(strategy, held_by):
    found = held(strategy=strategy, num_processes=4, adapter_dtype="bf16")

    assert found["adapter and gradients"] == ADAPTER * (2 / held_by + 2 / 4)
    assert found["optimizer"] == ADAPTER * 4 * (2 + 2) / 4
    assert found["base weights"] == 2 * WHOLE / held_by


def test_zero3_keeps_no_more_than_a_billion_gathered_parameters_alive():
    outside = 2 * (2 * 128_256 * 8192 + 8192)
    small, large = (
        held(name, strategy="zero3", num_processes=8, adapter_dtype="bf16")["gathered weights"]
        for name in ("Qwen/Qwen2.5-0.5B", "meta-llama/Llama-3.3-70B-Instruct")
    )

    assert small == 2 * golden_facts("Qwen/Qwen2.5-0.5B").parameters
    assert large == outside + 2 * 10**9


def test_a_base_in_the_hosts_memory_leaves_what_is_gathered():
    found = held(strategy="fsdp", num_processes=1, cpu_offload=True)

    assert "base weights" not in found
    assert found["gathered weights"] == held(strategy="fsdp", num_processes=4)["gathered weights"]


def test_a_quantized_base_is_whole_on_every_gpu_before_it_is_shared():
    model = "meta-llama/Llama-3.3-70B-Instruct"
    whole = base_bytes(parameters(model), setup(quantization="nf4"))

    found = held(model, strategy="fsdp", num_processes=8, quantization="nf4", adapter_dtype="bf16")

    assert found == pytest.approx(
        {
            "base while it is loaded": whole,
            "its first parts": whole / 8,
            "a weight being quantized": 2 * 28672 * 8192,
            "CUDA context": 0.6 * GIB,
            "NCCL": 0.5 * GIB,
        }
    )


def test_where_training_needs_more_than_loading_training_counts():
    long = held(strategy="fsdp", num_processes=8, quantization="nf4", gradient_checkpointing=False, length=16384)

    assert "base while it is loaded" not in long
    assert long["activations"] == 16384 * PASSING.saved


@pytest.mark.parametrize(("optim", "states"), [("adamw_torch", 2), ("adamw_torch_fused", 2), ("adafactor", 0.01)])
@pytest.mark.parametrize(("dtype", "size"), [("fp32", 4), ("bf16", 2)])
def test_an_optimizer_keeps_its_states_in_the_adapters_dtype(optim, states, dtype, size):
    assert held(optim=optim, adapter_dtype=dtype)["optimizer"] == ADAPTER * size * states


def test_plain_gradient_descent_keeps_nothing():
    assert "optimizer" not in held(optim="sgd")


def test_an_adapter_in_16_bits_needs_no_cast():
    assert held(adapter_dtype="bf16")["adapter and gradients"] == ADAPTER * (2 + 2)


def test_without_checkpointing_all_layers_are_kept_and_none_is_recomputed():
    found = held(gradient_checkpointing=False, per_device=8, length=512, packing=False)

    assert found["activations"] == 4096 * PASSING.saved
    assert "backward pass" not in found
    assert found["loss head"] == 4096 * 32768 * 2 + 4096 * 4096 * 8


def test_the_head_never_has_more_than_one_tile_of_logits():
    short, long = (held(gradient_checkpointing=False, length=length)["loss head"] for length in (1000, 100_000))

    assert short == 1000 * (32768 * 2 + 4096 * 8)
    assert long == 256 * 2**20 + 100_000 * 4096 * 8


def test_dropout_keeps_a_copy_and_a_mask_for_every_module():
    config, width = golden_facts(LLAMA).config, 6 * 4096 + 14336
    plain, dropped = (activations(config, Adapter("fp32", 16, p, ALL), TOKENS, True).saved for p in (0.0, 0.1))

    assert dropped - plain == 32 * width  # 3 bytes instead of 2


def test_a_mask_costs_repeated_heads_and_a_number_for_every_token_of_the_row():
    config, adapter = golden_facts(LLAMA).config, Adapter("fp32", 16, 0.0, ALL)
    free, short, long = (
        activations(config, adapter, tokens, masked).saved
        for tokens, masked in ((TOKENS, False), (TOKENS, True), (2 * TOKENS, True))
    )

    assert short - free == 32 * (4 * 4096 - 4 * 1024 + 2 * TOKENS) + TOKENS
    assert long - short == 32 * 2 * TOKENS + TOKENS
    assert activations(config, adapter, 2 * TOKENS, False).saved == free


def test_packs_of_one_micro_batch_are_one_row_whose_mask_grows_with_its_square():
    one, two = (
        lines(plan_for("Llama-3.1-8B", "B200", per_device_train_batch_size=size).memory)["activations"]
        for size in (1, 2)
    )

    assert two - 2 * one == 2 * TOKENS * TOKENS * (32 * 2 + 1)


def test_soft_capped_scores_cost_8_bytes_for_every_pair_of_tokens_and_head():
    config, adapter = golden_facts("google/gemma-2-2b-it").config, Adapter("bf16", 16, 0.0, ALL)
    one, two = (activations(config, adapter, tokens, False).saved for tokens in (1000, 2000))

    assert two - one == 1000 * (26 * 8 * 8 + 1)


def why_activations(found: MemoryEstimate) -> str:
    return next((item.why for item in found.items if item.name == "activations"), "(rule of thumb)")


# Architectures that the formula does not know


def unknown(dry_run: DryRun | None) -> MemoryEstimate:
    facts = facts_for("Qwen3-30B-A3B", "H200").model_copy(update={"dry_run": dry_run})
    spec = JobSpec(model="org/m", dataset_uri="org/rows", global_batch_size=64, gradient_checkpointing=False)
    return make_plan(spec, facts).memory


def test_what_the_dry_run_has_found_is_used():
    found = golden_dry_run("Qwen/Qwen3-30B-A3B")

    kept = TOKENS * found.activations["fp32"].saved + found.fixed["bf16"].saved
    assert lines(unknown(found))["activations"] == pytest.approx(kept)
    assert why_activations(unknown(found)).endswith("(dry run)")


def test_adapted_experts_are_planned_for_as_the_dry_run_has_found_them():
    """Names tell nothing of them: on disk each expert has weights of its own, in memory a layer's are one tensor."""
    found = golden_dry_run("Qwen/Qwen3-30B-A3B")
    merged = Activations(saved=10 * GIB, boundary=0, layer=GIB, transient=0, source="dry run")
    adapted = found.model_copy(update={"adapter_parameters": 10**9, "fixed": {"bf16": merged, "fp32": merged}})

    usual = lines(unknown(found.model_copy(update={"adapter_parameters": 0})))
    memory = lines(unknown(adapted))

    assert "optimizer" not in usual
    assert memory["optimizer"] == 8 * 10**9
    assert memory["activations"] - usual["activations"] == pytest.approx(10 * GIB, rel=1e-4)


@pytest.mark.parametrize("dry_run", [None, DryRun(failure="this architecture refuses fake tensors")])
def test_without_a_dry_run_it_is_34_bytes_for_each_element_of_each_layers_input(dry_run):
    assert lines(unknown(dry_run))["activations"] == TOKENS * 34 * 2048 * 48
    assert why_activations(unknown(dry_run)).endswith("(rule of thumb)")
