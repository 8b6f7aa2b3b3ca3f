"""On another machine a run goes on exactly, or is refused."""

import pytest

from job.continuation import plan_to_continue
from job.errors import BadSpec, UnsuitableHost
from job.records import Gpu, Layout, Plan
from job.spec import JobSpec
from tests.unit.test_plan import H100, T4, facts

L4 = Gpu(name="NVIDIA L4", memory_gib=22.5, compute_capability=(8, 9))


def spec(**settings: object) -> JobSpec:
    return JobSpec(model="org/base", dataset_uri="org/rows", output_uri=("/out",), **settings)


def layout(plan: Plan, step: int = 200) -> Layout:
    same = {
        name: getattr(plan, name)
        for name in ("strategy", "num_processes", "precision", "adapter_dtype", "quantization")
    }
    return Layout(step=step, eval_loss=None, save_s=0.1, **same)


def test_on_the_same_machine_the_plan_is_the_same():
    before = plan_to_continue(spec(), facts(H100), None, None)

    assert plan_to_continue(spec(), facts(H100), None, layout(before)) == before


@pytest.mark.parametrize(("before", "now"), [(1, 4), (4, 1), (2, 8)])
def test_the_number_of_gpus_may_change_where_each_process_holds_the_whole_state(before, now):
    first = plan_to_continue(spec(), facts(*[H100] * before), None, None)

    then = plan_to_continue(spec(), facts(*[H100] * now), None, layout(first))

    assert then.num_processes == now
    assert then.global_batch_size == first.global_batch_size


def test_a_plan_that_could_not_read_the_checkpoint_gives_way_to_one_that_can():
    first = plan_to_continue(spec(strategy="fsdp", num_processes=2), facts(*[H100] * 2), None, None)
    assert plan_to_continue(spec(), facts(*[H100] * 4), None, None).strategy == "ddp"

    then = plan_to_continue(spec(), facts(*[H100] * 4), None, layout(first))

    assert (then.strategy, then.num_processes) == ("fsdp", 2)
    assert "no other can read the checkpoint of step 200" in then.reasons["strategy"]


@pytest.mark.parametrize("settings", [{"strategy": "ddp"}, {}])
def test_a_checkpoint_spread_over_more_gpus_than_there_are_is_refused(settings):
    first = plan_to_continue(spec(strategy="fsdp"), facts(*[H100] * 4), None, None)

    with pytest.raises(BadSpec, match=r"step 200 was made by fsdp over 4 processes"):
        plan_to_continue(spec(**settings), facts(*[H100] * 2), None, layout(first))


def test_a_run_begun_in_bf16_wants_another_machine_where_there_is_only_fp16():
    small = {"parameters": 500_000_000}
    first = plan_to_continue(spec(), facts(L4, **small), None, None)

    with pytest.raises(UnsuitableHost, match="begun in bf16, and this machine would train in fp16"):
        plan_to_continue(spec(), facts(T4, **small), None, layout(first))
