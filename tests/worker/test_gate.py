"""The adapter gate, in this process: what it finds wrong with files that are not what was trained."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from job.compatibility import adapter_dtypes
from job.errors import AdapterRejected
from job.evaluate.gate import CONFIG, pass_gate
from job.records import EvaluateTask, GateFigures, StartingAdapter, TrainTask
from job.rundir import read_record, write_json
from job.spec import JobSpec
from job.train.story import train
from tests.thorough import some
from tests.worker.preferences import make_preferences
from tests.worker.strategies import STRATEGIES, Inputs, Run, make_inputs, make_run
from tests.worker.works import ADAPTERS

pytestmark = pytest.mark.slow

FILE = "adapter_model.safetensors"
LAYER = "base_model.model.model.layers.1.self_attn.q_proj"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("inputs"), rows=16)


def trained(inputs: Inputs, root: Path, start: StartingAdapter | None = None, **settings) -> Run:
    plan = {name: settings.pop(name) for name in ("quantization", "precision") if name in settings}
    run = make_run(inputs, root, "single", **plan)
    run = replace(run, settings=run.settings | {"max_steps": 2, "learning_rate": 2e-2, "save_steps": 100} | settings)
    _, task = run.write()
    write_json(run.files.train_task, task.model_copy(update={"start": start}))
    run.files.beat(0).parent.mkdir()
    run.files.beat(0).touch()
    train(run.files, rank=0)
    return run


@pytest.fixture(scope="module")
def run(inputs, tmp_path_factory) -> Run:
    return trained(inputs, tmp_path_factory.mktemp("run"))


def judge(run: Run, adapter: Path, model: Path | None = None) -> GateFigures:
    """What the gate says of *adapter*, on the base that was trained or another *model*."""
    task = read_record(run.files.train_task, TrainTask)
    task = task.model_copy(update={"model_path": model or task.model_path})
    spec = read_record(run.files.spec, JobSpec)
    _, figures = pass_gate(spec, EvaluateTask(train=task, plan=run.plan, adapter=adapter), run.files.proof_logits)
    return figures


def test_what_was_trained_passes_with_the_figures_that_show_it(run):
    figures = judge(run, run.adapter)

    assert (figures.tensors, figures.learned) == (14, 14), "seven linear modules in each of two layers"
    assert figures.moved > 0.01
    assert figures.apart < 1e-4 < figures.moved


SHARED_OUT = [(strategy, precision, "none") for strategy in STRATEGIES[1:] for precision in ("fp32", "bf16")]


@pytest.mark.parametrize(
    ("strategy", "precision", "quantization"),
    some([*SHARED_OUT, ("fsdp", "bf16", "nf4")], always=[("fsdp", "bf16", "none"), ("zero3", "fp32", "none")]),
)
def test_what_two_processes_have_trained_passes_in_one(inputs, tmp_path, strategy, precision, quantization):
    dtype = adapter_dtypes(strategy, quantization, precision)[0]
    plan = {"precision": precision, "quantization": quantization, "adapter_dtype": dtype}
    run = make_run(inputs, tmp_path / "run", strategy, **plan)
    run = replace(run, settings=run.settings | {"max_steps": 4, "save_steps": 100}).execute()

    figures = judge(run, run.adapter)

    assert figures.learned == figures.tensors == 14
    assert figures.apart <= figures.tolerance
    assert figures.effect_apart <= figures.effect_tolerance


@pytest.mark.parametrize("adapter", [name for name in ADAPTERS if name != "lora"])
def test_every_kind_passes_and_all_its_parts_have_learned(inputs, tmp_path, adapter):
    run = trained(inputs, tmp_path / "run", **ADAPTERS[adapter])

    figures = judge(run, run.adapter)

    assert figures.learned == figures.tensors > 0
    assert figures.apart <= figures.tolerance < figures.moved


def with_tensors(change: Callable[[Tensors], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / FILE)
        change(tensors)
        save_file(tensors, folder / FILE)

    return spoil


def with_config(**fields: object) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(config | fields))

    return spoil


def freeze(tensors: Tensors) -> None:
    """As an adapter begins: every product is nothing."""
    for name, tensor in tensors.items():
        if "lora_B" in name:
            tensor.zero_()


def put_half_a_layer(tensors: Tensors) -> None:
    tensors[f"{LAYER}.lora_A.weight"] = tensors[f"{LAYER}.lora_A.weight"][:8].clone()


def truncate(folder: Path) -> None:
    data = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(data[: len(data) // 2])


FAULTS = {
    "frozen": (with_tensors(freeze), "14 of 14 adapter tensors are what they began as"),
    "no tensors": (with_tensors(Tensors.clear), "holds no tensor"),
    "no bytes": (lambda folder: (folder / FILE).write_bytes(b""), "of 0 bytes cannot be read back"),
    "no file": (lambda folder: (folder / FILE).unlink(), "cannot be read back"),
    "NaN": (with_tensors(lambda t: t[f"{LAYER}.lora_A.weight"].view(-1)[:3].fill_(torch.nan)), "3 of 1,024 values"),
    "zero lora_B in one layer": (
        with_tensors(lambda tensors: tensors[f"{LAYER}.lora_B.weight"].zero_()),
        "1 of 14 adapter tensors are what they began as, first base_model.model.model.layers.1.self_attn.q_proj",
    ),
    "missing layer": (
        with_tensors(lambda t: [t.pop(name) for name in list(t) if ".layers.1." in name]),
        "lacks 14 of 28 tensors",
    ),
    "truncated": (truncate, "cannot be read back"),
    "extra keys": (
        with_tensors(lambda tensors: tensors.update({"base_model.model.model.norm.lora_B.weight": torch.ones(2)})),
        "holds 1 tensor that it should not",
    ),
    "wrong shape": (with_tensors(put_half_a_layer), "is of shape 8×64, and has to be 16×64"),
    "another kind": (with_config(peft_type="LOHA"), "is a LoHaConfig, and JOB_ADAPTER=lora is a LoraConfig"),
    "another base by name": (with_config(base_model_name_or_path="org/other"), "names the base model org/other"),
    "another scale": (with_config(lora_alpha=64), "apart from those that training ended with"),
    "no configuration": (lambda folder: (folder / CONFIG).unlink(), "adapter_config.json cannot be read back"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_what_was_trained_is_rejected_with_the_figures(run, tmp_path, fault):
    spoil, said = FAULTS[fault]
    adapter = shutil.copytree(run.adapter, tmp_path / "adapter")
    spoil(adapter)

    with pytest.raises(AdapterRejected, match=said):
        judge(run, adapter)


def test_another_base_is_found_by_its_logits(run, tmp_path):
    """Weights of the same shapes, as of the same model at another revision."""
    model = shutil.copytree(run.inputs.model, tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    save_file({name: tensor * 1.05 for name, tensor in tensors.items()}, model / "model.safetensors", {"format": "pt"})

    with pytest.raises(AdapterRejected, match="The base model's logits, without the adapter, are"):
        judge(run, run.adapter, model)


def test_an_adapter_that_moves_nothing_is_rejected_although_its_tensors_have_changed(run, tmp_path):
    still = replace(run, root=shutil.copytree(run.root, tmp_path / "still"))
    with_tensors(lambda tensors: [tensor.mul_(1e-9) for name, tensor in tensors.items() if "lora_B" in name])(
        still.adapter
    )
    proof = load_file(run.files.proof_logits)
    of_the_base = {f"tuned.{number}": proof[f"base.{number}"].clone() for number in range(4)}
    save_file(proof | of_the_base, still.files.proof_logits)

    with pytest.raises(AdapterRejected, match="move no logit of the base model"):
        judge(still, still.adapter)


@pytest.fixture(scope="module")
def little(inputs, tmp_path_factory) -> Run:
    """In 16 bits, and so little learned that rounding may move logits further."""
    return trained(inputs, tmp_path_factory.mktemp("little"), precision="bf16", learning_rate=7e-5)


def make_random(tensors: Tensors) -> None:
    """Of the size that was learned."""
    for name, tensor in tensors.items():
        if "lora_B" in name:
            tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)) * tensor.std())


def shrink(tensors: Tensors) -> None:
    for name, tensor in tensors.items():
        if "lora_B" in name:
            tensor.mul_(0.01)


def swap_layers(tensors: Tensors) -> None:
    tensors.update(
        {name: tensors[name.replace(".0.", ".1.")].clone() for name in list(tensors) if ".layers.0." in name}
    )


SUBTLE = {
    "random": with_tensors(make_random),
    "a hundredth": with_tensors(shrink),
    "one layer twice": with_tensors(swap_layers),
    "twice the scale": with_config(lora_alpha=64),
}


@pytest.mark.parametrize("fault", SUBTLE)
def test_rounding_does_not_hide_that_an_adapter_is_not_what_was_trained(little, tmp_path, fault):
    figures = judge(little, little.adapter)
    assert figures.moved < figures.tolerance, "logits alone do not tell"
    assert figures.effect_apart <= figures.effect_tolerance < 0.5
    adapter = shutil.copytree(little.adapter, tmp_path / "adapter")
    SUBTLE[fault](adapter)

    with pytest.raises(AdapterRejected, match="What the loaded adapter does to the logits"):
        judge(little, adapter)


def test_a_reward_model_passes_by_its_rewards_and_its_head_has_learned(tmp_path):
    inputs = make_preferences(tmp_path / "rows", "reward")
    run = trained(inputs, tmp_path / "run", method="reward")

    figures = judge(run, run.adapter)

    assert (figures.tensors, figures.learned) == (15, 15), "the head is one more"
    assert figures.apart <= figures.tolerance < figures.moved

    with_tensors(lambda tensors: tensors["base_model.model.score.weight"].add_(1))(run.adapter)
    with pytest.raises(AdapterRejected, match="apart from those that training ended with"):
        judge(run, run.adapter)


@pytest.mark.parametrize("how", ["merge", "continue"])
def test_an_adapter_that_started_from_another_one_is_judged_on_what_it_stands_on(inputs, run, tmp_path, how):
    start = StartingAdapter(path=run.adapter, location="org/before", how=how, identity="")
    second = trained(inputs, tmp_path / "second", start)

    figures = judge(second, second.adapter)

    assert figures.learned == figures.tensors == 14
    assert figures.apart < 1e-4


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_quantized_base_is_judged_as_it_was_trained(inputs, tmp_path, quantization):
    run = trained(inputs, tmp_path / "run", quantization=quantization)

    figures = judge(run, run.adapter)

    assert figures.learned == figures.tensors == 14
    assert figures.apart <= figures.tolerance < figures.moved
    unquantized = replace(run, plan=run.plan.model_copy(update={"quantization": "none"}))
    assert judge_apart(unquantized) > 10 * figures.apart


def judge_apart(run: Run) -> float:
    """How far the logits are apart, passed or not."""
    try:
        return judge(run, run.adapter).apart
    except AdapterRejected:
        return float("inf")
