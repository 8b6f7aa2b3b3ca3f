"""The dry run on fake tensors against real ones, and the formula against the dry run."""

import json
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig

from job.activations import _FAMILIES, Adapter, activations, is_masked
from job.adapters import peft_fields
from job.probe import activations as probe
from job.probe.layers import Depths
from job.records import Activations, DryRun, DryRunTask, Precision
from job.spec import JobSpec
from tests.models import MODELS
from tests.thorough import some

ALL = ("all-linear",)
TINY = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4, "vocab_size": 128,
    "num_attention_heads": 4, "num_key_value_heads": 4, "pad_token_id": 0,
}  # fmt: skip
EXPERTS = TINY | {
    "model_type": "qwen3_moe", "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32
}  # fmt: skip
KINDS = {
    "llama": TINY,
    "qwen2": TINY | {"model_type": "qwen2", "num_key_value_heads": 2},
    "phi": TINY | {"model_type": "phi"},
    "gemma2": TINY | {"model_type": "gemma2", "head_dim": 16},
    "qwen3_moe": EXPERTS,
}
# A model of every family that the formula knows.
FORMULA = {name: MODELS[name][1] for name in (
    "meta-llama/Llama-3.1-8B", "mistralai/Mistral-7B-v0.3", "Qwen/Qwen2.5-0.5B", "Qwen/Qwen3-8B", "google/gemma-7b",
    "google/gemma-2-2b-it", "microsoft/phi-2", "microsoft/phi-4",
)} | {
    "ibm-granite/granite-3.1-8b-base": {
        "model_type": "granite", "hidden_size": 4096, "intermediate_size": 12800, "num_hidden_layers": 40,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 49152, "attention_multiplier": 0.0078125,
        "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "tie_word_embeddings": True,
    },
    "HuggingFaceTB/SmolLM3-3B": {
        "model_type": "smollm3", "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 128256, "no_rope_layer_interval": 4,
        "use_sliding_window": False, "tie_word_embeddings": True,
    },
    # Every second layer looks at a window here, of the real one five of six: kinds that repeat soon are run soon.
    "google/gemma-3-1b-it": {
        "model_type": "gemma3_text", "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262144,
        "sliding_window": 512, "layer_types": ["sliding_attention", "full_attention"] * 13,
        "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True,
    },
}  # fmt: skip


def task(
    dropout: float = 0.0, masked: bool = False, tokens: int = 211, targets: tuple[str, ...] = ALL, **changes: Any
) -> DryRunTask:
    lora = {"r": 16, "lora_dropout": dropout, "target_modules": list(targets)}
    settings = {"model_path": "unused", "adapter": "lora", "fields": lora}
    return DryRunTask(**{**settings, "tokens": tokens, "masked": masked, **changes})


def dry_run(config: dict[str, Any], asked: DryRunTask) -> DryRun:
    return probe.measure(AutoConfig.for_model(**config), asked, FakeTensorMode())


def tiny_model(kind: str, asked: DryRunTask, dtype: Precision) -> torch.nn.Module:
    with torch.device("meta"):
        base = probe._base_model(AutoConfig.for_model(**KINDS[kind]), asked.masked)
        model = get_peft_model(base, probe._adapter(asked, base), autocast_adapter_dtype=False).train()
    probe._fill(model, probe.DTYPES[dtype])
    return model


def peaks(found: Activations) -> tuple[float, float]:
    """Without and with checkpointing."""
    return found.saved + found.transient, found.boundary + found.layer + found.transient


@pytest.mark.parametrize(("dropout", "masked"), [(0.0, False), (0.1, True)])
@pytest.mark.parametrize("kind", some(KINDS, always=("llama", "gemma2")))
def test_fake_tensors_live_exactly_as_long_as_real_ones(kind, dropout, masked):
    asked = task(dropout, masked)

    real = probe.measure(AutoConfig.for_model(**KINDS[kind]), asked, nullcontext())

    assert dry_run(KINDS[kind], asked) == real


@pytest.mark.parametrize("adapter", some(("ia3", "loha", "lokr", "oft", "vera"), always=("ia3", "loha")))
def test_adapters_that_no_formula_knows_are_run_as_they_are(adapter):
    """LoHa and LoKr multiply the whole update of each module out and keep it, in 16 bits."""
    fields = peft_fields(JobSpec(model="org/m", adapter=adapter))

    found = dry_run(KINDS["llama"], task().model_copy(update={"adapter": adapter, "fields": fields}))

    assert found.activations["bf16"].saved > 0
    assert found.adapter_parameters > 0
    if adapter in ("loha", "lokr"):
        assert 1.5 < found.fixed["bf16"].saved / found.quantized_parameters <= 2


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_counted_peak_is_the_peak_of_the_real_allocator(kind, dtype):
    model = tiny_model(kind, task(), dtype)
    probe._step(model, 31)  # what is allocated once is not the step's

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        _, peak = probe._step(model, 331)

    assert peak.of_a_token * 331 + peak.fixed == pytest.approx(allocated_peak(profiler), rel=0.02)


def allocated_peak(profiler: profile) -> int:
    live = most = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most


def test_what_is_kept_is_what_autograd_saves_in_a_plain_forward_pass():
    """Nothing of the probe takes part but its model: no dispatch mode, no stand-in for attention."""
    model, tokens = tiny_model("llama", task(), "bf16"), 331
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    saved = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.autocast("cpu", torch.bfloat16), saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model.get_base_model().base_model(input_ids=torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
    kept = sum(storage.nbytes() for storage in saved.values())

    assert hidden.last_hidden_state.requires_grad
    assert dry_run(TINY, task(tokens=331)).activations["bf16"].saved * tokens == pytest.approx(kept, rel=0.02)


def test_every_family_of_the_formula_is_compared():
    assert {config["model_type"] for config in FORMULA.values()} == set(_FAMILIES)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", some(FORMULA, always=("meta-llama/Llama-3.1-8B", "google/gemma-3-1b-it")))
def test_the_formula_is_within_5_percent_of_the_dry_run(name, masked):
    assert deviation(name, ALL, 0.0, masked) <= 0.05


@pytest.mark.parametrize(
    "name",
    some(
        ("meta-llama/Llama-3.1-8B", "google/gemma-2-2b-it", "microsoft/phi-2", "microsoft/phi-4"),
        always=("meta-llama/Llama-3.1-8B",),
    ),
)
def test_the_formula_knows_dropout(name):
    assert deviation(name, ALL, 0.05, masked=False) <= 0.05


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("google/gemma-7b", ("q_proj", "v_proj")),
        ("meta-llama/Llama-3.1-8B", ("gate_proj", "up_proj", "down_proj")),
        ("microsoft/phi-4", ("qkv_proj", "o_proj")),
    ],
)
def test_the_formula_knows_which_modules_are_adapted(name, targets):
    assert deviation(name, targets, 0.05, masked=False) <= 0.05


def deviation(name: str, targets: tuple[str, ...], dropout: float, masked: bool) -> float:
    """The largest share by which a peak of the formula is off the dry run's, plain or checkpointed, in either dtype."""
    config = FORMULA[name]
    found = dry_run(config, task(dropout, masked, tokens=2048, targets=targets))
    assert set(found.activations) == {"bf16", "fp32"}
    formulas = {
        dtype: activations(config, Adapter(dtype, 16, dropout, targets), 2048, masked) for dtype in found.activations
    }
    pairs = [zip(peaks(formulas[dtype]), peaks(measured), strict=True) for dtype, measured in found.activations.items()]
    return max(abs(formula / measured - 1) for pair in pairs for formula, measured in pair)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "unheard_of"},
        MODELS["Qwen/Qwen3-30B-A3B"][1],
        {key: value for key, value in MODELS["google/gemma-7b"][1].items() if key != "head_dim"},
        MODELS["meta-llama/Llama-3.1-8B"][1] | {"hidden_act": "relu2"},
    ],
    ids=["unknown", "experts", "a width left to the class", "another activation"],
)
def test_the_formula_does_not_guess(config):
    assert activations(config, Adapter("fp32", 16, 0.0, ALL), 2048, False) is None


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("tokens", "masked"), [(1024, False), (2048, True)])
def test_rows_as_long_as_a_sliding_window_are_masked(tokens, masked, padded):
    config = {"sliding_window": 2048}

    assert is_masked(config, tokens, padded, packed=False) is (masked or padded)
    assert is_masked(config | {"use_sliding_window": False}, tokens, padded, packed=False) is padded


@pytest.mark.parametrize(
    "name",
    some(
        ("meta-llama/Llama-3.1-405B", "google/gemma-2-27b-it", "Qwen/Qwen3-30B-A3B"),
        always=("meta-llama/Llama-3.1-405B",),
    ),
)
def test_two_shallow_models_say_what_the_whole_one_holds(name, monkeypatch):
    config, asked = MODELS[name][1] | {"num_hidden_layers": 9}, task(adapter_dtypes=("fp32",))
    shallow = dry_run(config, asked)
    monkeypatch.setattr(probe, "depths", lambda layers, config: Depths(9, 9, 9))
    whole = dry_run(config, asked)

    for part in ("activations", "fixed"):
        one, other = (getattr(found, part)["fp32"].model_dump(exclude={"source"}) for found in (shallow, whole))
        assert one == pytest.approx(other, rel=0.001, abs=100)
    assert shallow.adapter_parameters == whole.adapter_parameters
    assert shallow.quantized_parameters == whole.quantized_parameters


def test_the_model_says_what_adapters_and_quantization_apply_to():
    config = MODELS["meta-llama/Llama-3.1-8B"][1]
    found = dry_run(config, task(adapter_dtypes=("bf16",)))
    layer = 2 * (4096 + 1024) * 4096 + 3 * 4096 * 14336
    adapter = 16 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336))

    assert found.quantized_parameters == 32 * layer
    assert found.largest_linear_parameters == 4096 * 14336
    assert found.adapter_parameters == 32 * adapter


def test_fused_experts_are_neither_quantized_nor_adapted():
    found = dry_run(EXPERTS, task(adapter_dtypes=("bf16",)))

    assert found.largest_linear_parameters == 64 * 64  # of attention: experts are no linear layers
    assert found.quantized_parameters == 4 * 4 * 64 * 64
    assert found.adapter_parameters == 4 * 4 * 16 * (64 + 64)
    assert found.fixed["bf16"].saved < 64 * 64  # experts merged with their adapters would stand here


def test_an_architecture_that_cannot_be_run_is_told_and_not_raised(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(EXPERTS))
    experts = ("gate_proj", "up_proj", "down_proj")
    found = probe.dry_run(task(0.1, model_path=tmp_path, targets=experts))  # PEFT refuses dropout over them

    assert "lora_dropout" in found.failure
    assert found.activations == {}
