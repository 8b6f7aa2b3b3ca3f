"""Real models without weights: the numbers of their ``config.json``, and the facts that `inspect_model` would read from
their headers. ``python -m tests.models`` writes the facts to ``tests/golden/models``, and what the dry run finds of the
models that the formula for activations does not know to ``tests/golden/dry_runs``.

A model is built by transformers on the meta device and its tensors are named as ``save_pretrained`` would name them,
which is how they stand on the Hub: one tensor per expert, though in memory all experts of a layer are one parameter.
"""

# Torch is imported by those who build models: the tables below are for tests without it too.
from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.activations import knows
from job.facts.model import tensor_groups
from job.records import DryRun, DryRunTask, ModelFacts, Record
from job.rundir import read_record

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GOLDEN = Path(__file__).parent / "golden" / "models"
DRY_RUNS = GOLDEN.parent / "dry_runs"

_LLAMA3 = {"model_type": "llama", "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072}
_QWEN2 = {"model_type": "qwen2", "max_position_embeddings": 131072, "tie_word_embeddings": False}
_QWEN3 = {"model_type": "qwen3", "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960}
_QWEN3_MOE = {
    **_QWEN3, "model_type": "qwen3_moe", "num_key_value_heads": 4, "num_experts": 128, "num_experts_per_tok": 8,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "tie_word_embeddings": False, "router_aux_loss_coef": 0.001,
}  # fmt: skip
_GEMMA = {
    "model_type": "gemma", "vocab_size": 256000, "max_position_embeddings": 8192, "tie_word_embeddings": True,
    "hidden_activation": "gelu_pytorch_tanh",
}  # fmt: skip
_GEMMA2 = {
    **_GEMMA, "model_type": "gemma2", "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
    "sliding_window": 4096,
}  # fmt: skip


def _sizes(hidden: int, intermediate: int, layers: int, heads: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


# What config.json says of sizes and features, and the parameters that the Hub shows for the weights, tied ones once.
MODELS: dict[str, tuple[int, dict[str, Any]]] = {
    "Qwen/Qwen2.5-0.5B": (
        494_032_768,
        _QWEN2 | _sizes(896, 4864, 24, 14) | {"num_key_value_heads": 2, "vocab_size": 151936}
        | {"max_position_embeddings": 32768, "tie_word_embeddings": True},
    ),
    "meta-llama/Llama-3.2-1B": (
        1_235_814_400, _LLAMA3 | _sizes(2048, 8192, 16, 32) | {"head_dim": 64, "tie_word_embeddings": True}
    ),
    "google/gemma-2-2b-it": (
        2_614_341_888,
        _GEMMA2 | _sizes(2304, 9216, 26, 8)
        | {"num_key_value_heads": 4, "head_dim": 256, "query_pre_attn_scalar": 256},
    ),
    "microsoft/phi-2": (
        2_779_683_840,
        {"model_type": "phi", "vocab_size": 51200, "max_position_embeddings": 2048, "partial_rotary_factor": 0.4}
        | _sizes(2560, 10240, 32, 32) | {"num_key_value_heads": 32, "hidden_act": "gelu_new"},
    ),
    "Qwen/Qwen3-4B": (
        4_022_468_096,
        _QWEN3 | _sizes(2560, 9728, 36, 32) | {"num_key_value_heads": 8, "tie_word_embeddings": True},
    ),
    "mistralai/Mistral-7B-v0.3": (
        7_248_023_552,
        {"model_type": "mistral", "vocab_size": 32768, "max_position_embeddings": 32768, "sliding_window": None}
        | _sizes(4096, 14336, 32, 32) | {"num_key_value_heads": 8},
    ),
    "meta-llama/Llama-3.1-8B": (8_030_261_248, _LLAMA3 | _sizes(4096, 14336, 32, 32)),
    "Qwen/Qwen3-8B": (
        8_190_735_360,
        _QWEN3 | _sizes(4096, 12288, 36, 32) | {"num_key_value_heads": 8, "tie_word_embeddings": False},
    ),
    "google/gemma-7b": (
        8_537_680_896, _GEMMA | _sizes(3072, 24576, 28, 16) | {"num_key_value_heads": 16, "head_dim": 256}
    ),
    "microsoft/phi-4": (
        14_659_507_200,
        {"model_type": "phi3", "vocab_size": 100352, "max_position_embeddings": 16384, "pad_token_id": 100349}
        | _sizes(5120, 17920, 40, 40) | {"num_key_value_heads": 10},
    ),
    "Qwen/Qwen2.5-14B": (
        14_770_033_664, _QWEN2 | _sizes(5120, 13824, 48, 40) | {"num_key_value_heads": 8, "vocab_size": 152064}
    ),
    "google/gemma-2-27b-it": (
        27_227_128_320,
        _GEMMA2 | _sizes(4608, 36864, 46, 32)
        | {"num_key_value_heads": 16, "head_dim": 128, "query_pre_attn_scalar": 144},
    ),
    "Qwen/Qwen3-30B-A3B": (30_532_122_624, _QWEN3_MOE | _sizes(2048, 6144, 48, 32) | {"moe_intermediate_size": 768}),
    "Qwen/Qwen2.5-32B": (
        32_763_876_352, _QWEN2 | _sizes(5120, 27648, 64, 40) | {"num_key_value_heads": 8, "vocab_size": 152064}
    ),
    "mistralai/Mixtral-8x7B-v0.1": (
        46_702_792_704,
        {"model_type": "mixtral", "vocab_size": 32000, "max_position_embeddings": 32768, "num_local_experts": 8}
        | _sizes(4096, 14336, 32, 32)
        | {"num_key_value_heads": 8, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.02},
    ),
    "meta-llama/Llama-3.3-70B-Instruct": (70_553_706_496, _LLAMA3 | _sizes(8192, 28672, 80, 64)),
    "Qwen/Qwen3-235B-A22B": (
        235_093_634_560, _QWEN3_MOE | _sizes(4096, 12288, 94, 64) | {"moe_intermediate_size": 1536}
    ),
    "meta-llama/Llama-3.1-405B": (405_853_388_800, _LLAMA3 | _sizes(16384, 53248, 126, 128)),
}  # fmt: skip


# Of the shapes that `tests.plans` asks for: the job's defaults, in packs.
LORA = {"r": 16, "lora_dropout": 0.0, "target_modules": ["all-linear"]}
DRY_RUN_TASK = DryRunTask(model_path=Path("unused"), adapter="lora", fields=LORA, tokens=2048, masked=True)


def golden_path(name: str, folder: Path = GOLDEN) -> Path:
    """The file of the model *name*, given with or without its organization."""
    return folder / f"{name.rsplit('/', 1)[-1]}.json"


def golden_facts(name: str) -> ModelFacts:
    """The facts of the model *name*, such as ``Qwen/Qwen3-8B``, as they were written."""
    return read_record(golden_path(name), ModelFacts)


def golden_dry_run(name: str) -> DryRun | None:
    """What the dry run has found of the model *name*; None where the formula makes it unnecessary, as in a real job."""
    if knows(golden_facts(name).config):
        return None
    return read_record(golden_path(name, DRY_RUNS), DryRun)


def build(config: dict[str, Any]) -> PreTrainedModel:
    """The model of that *config* without memory for its weights, in bfloat16."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.bfloat16)


def model_facts(name: str, config: dict[str, Any] | None = None) -> ModelFacts:
    """The facts of the model *name*, or of one of that *config*, all weights in bfloat16, from transformers' own
    code."""
    from transformers.core_model_loading import revert_weight_conversion

    config = config or MODELS[name][1]
    model = build(config)
    weights = revert_weight_conversion(model, dict(model.named_parameters()))
    tensors = tensor_groups((key, {"shape": list(weight.shape), "dtype": "BF16"}) for key, weight in weights.items())
    parameters = sum(group.numel for group in tensors)
    return ModelFacts(
        uri=f"hf://{name}",
        revision=None,
        model_type=config["model_type"],
        parameters=parameters,
        weights_bytes=2 * parameters,
        dtypes={"BF16": parameters},
        tensors=tensors,
        config=config,
        max_length=config.get("max_position_embeddings"),
        identity=hashlib.sha256(name.encode()).hexdigest(),
    )


def dry_run(name: str) -> DryRun:
    """What `job.probe.activations` finds of the model *name*, with adapters in bf16 and float32."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoConfig

    from job.probe.activations import measure

    return measure(AutoConfig.for_model(**MODELS[name][1]), DRY_RUN_TASK, FakeTensorMode())


def main() -> None:
    for name, (_, config) in MODELS.items():
        _write(golden_path(name), model_facts(name))
        if not knows(config):
            _write(golden_path(name, DRY_RUNS), dry_run(name))


def _write(path: Path, record: Record) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
