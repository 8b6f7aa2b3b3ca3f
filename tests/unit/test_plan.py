"""Decisions of the plan, on facts made by hand."""

import pytest

from job.batch import number_of_packs
from job.errors import BadSpec, UnsuitableHost
from job.plan import make_plan
from job.records import DatasetFacts, Facts, Gpu, HardwareFacts, ModelFacts, PackingProbe, Plan
from job.spec import JobSpec

H100 = Gpu(name="NVIDIA H100 80GB HBM3", memory_gib=79.6, compute_capability=(9, 0))
T4 = Gpu(name="Tesla T4", memory_gib=15.0, compute_capability=(7, 5))
APART = PackingProbe(isolated=True, reason="")
MIXING = PackingProbe(isolated=False, reason="a packed neighbour moves logits by 1.4e+00: rows would mix")


def facts(
    *gpus: Gpu,
    parameters: int = 8_000_000_000,
    mean: float = 1500,
    limit: int | None = 131072,
    packing: PackingProbe = APART,
) -> Facts:
    model = ModelFacts(
        uri="org/base", revision=None, model_type="llama", parameters=parameters, weights_bytes=2 * parameters,
        dtypes={"BF16": parameters}, tensors=(), config={}, max_length=limit, identity="",
    )  # fmt: skip
    dataset = DatasetFacts(
        rows=1000,
        epoch_rows=10_000,
        sampled=True,
        mean_tokens=mean,
        max_tokens=2000,
        lengths=(),
        trained_share=0.5,
        format="text",
        format_reason="",
    )
    return Facts(hardware=HardwareFacts(gpus=gpus), model=model, dataset=dataset, packing=packing)


def plan(found: Facts, **settings: object) -> Plan:
    spec = JobSpec(model="org/base", dataset_uri="org/rows", output_uri=("/out",), **settings)
    return make_plan(spec, found)


def test_one_gpu_is_single():
    made = plan(facts(H100))

    assert (made.strategy, made.num_processes, made.precision, made.use_gpu) == ("single", 1, "bf16", True)


def test_several_gpus_are_ddp():
    made = plan(facts(*[H100] * 8))

    assert (made.strategy, made.num_processes) == ("ddp", 8)


def test_no_gpu_and_a_small_model_is_cpu_in_full_precision():
    made = plan(facts(parameters=500_000))

    assert (made.strategy, made.precision, made.use_gpu, made.gradient_checkpointing) == ("cpu", "fp32", False, False)


def test_no_gpu_and_a_large_model_is_refused_rather_than_run_for_weeks():
    with pytest.raises(UnsuitableHost, match="--gpus all"):
        plan(facts())


def test_the_cpu_is_used_for_a_large_model_when_asked_for():
    assert plan(facts(), strategy="cpu").strategy == "cpu"


def test_an_old_gpu_gets_fp16():
    assert plan(facts(T4)).precision == "fp16"


def test_mixed_gpus_get_the_precision_of_the_oldest():
    assert plan(facts(H100, T4)).precision == "fp16"


@pytest.mark.parametrize("gpus", [1, 2, 4, 8, 16])
def test_the_number_of_gpus_never_changes_the_global_batch(gpus):
    made = plan(facts(*[H100] * gpus), global_batch_size=32)

    assert made.per_device_train_batch_size * made.gradient_accumulation_steps * gpus == 32


def test_a_global_batch_that_does_not_divide_is_refused_with_one_that_does():
    with pytest.raises(BadSpec, match="Set it to 18"):
        plan(facts(*[H100] * 3), global_batch_size=16)


def test_more_processes_than_gpus_are_refused():
    with pytest.raises(BadSpec, match="JOB_NUM_PROCESSES=1"):
        plan(facts(H100), num_processes=2)


def test_a_per_device_batch_that_does_not_divide_is_refused():
    with pytest.raises(BadSpec, match="divisor of 16"):
        plan(facts(H100), per_device_train_batch_size=3)


def test_short_rows_are_packed_into_the_same_number_of_tokens():
    made = plan(facts(H100, mean=500), global_batch_size=16)

    assert made.packing
    assert made.global_batch_size == 4  # 16 rows × 500 tokens = 3.9 packs × 2048 tokens
    assert made.per_device_train_batch_size == 1


@pytest.mark.parametrize(
    ("wanted", "packs"), [(0.2, 1), (1.4, 1), (1.7, 2), (3.1, 3), (3.3, 4), (6.5, 8), (13.1, 16), (10.4, 8), (98.0, 96)]
)
def test_packs_are_as_many_as_most_machines_can_share(wanted, packs):
    assert number_of_packs(wanted) == packs


def test_long_rows_are_not_packed():
    assert not plan(facts(H100, mean=1024)).packing


def test_a_model_that_mixes_packed_rows_is_not_packed():
    made = plan(facts(H100, mean=500, packing=MIXING))

    assert not made.packing
    assert "rows would mix" in made.reasons["packing"]


def test_packing_that_was_asked_for_is_refused_where_rows_would_mix():
    with pytest.raises(BadSpec, match="rows would mix"):
        plan(facts(H100, mean=500, packing=MIXING), packing=True)


def test_too_few_packs_for_the_gpus_leave_packing_off():
    made = plan(facts(*[H100] * 8, mean=500), global_batch_size=16)

    assert (made.packing, made.global_batch_size) == (False, 16)


def test_packing_that_was_asked_for_is_refused_when_its_packs_cannot_be_shared():
    with pytest.raises(BadSpec, match="Set JOB_GLOBAL_BATCH_SIZE=33"):
        plan(facts(*[H100] * 8, mean=500), packing=True)


def test_the_models_own_limit_bounds_the_length():
    made = plan(facts(H100, limit=512), max_length=2048)

    assert made.max_length == 512
    assert "JOB_MAX_LENGTH=2048" in made.reasons["max_length"]


def test_every_choice_carries_its_reason():
    made = plan(facts(H100))

    assert set(made.reasons) == {
        "max_length", "strategy", "quantization", "packing", "batch", "precision", "gradient_checkpointing", "memory",
        "optim",
    }  # fmt: skip
    assert all(made.reasons.values())
