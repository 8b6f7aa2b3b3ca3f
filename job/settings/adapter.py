"""What is trained: the adapter, and the base that it stands on."""

from typing import Literal

from pydantic import BaseModel

from job.kinds import InitLoraWeights, ModelUri, PeftArgs
from job.records import Quantization
from job.settings.setting import setting


class AdapterSettings(BaseModel):
    """What is trained: the adapter, and the base that it stands on."""

    adapter: Literal["lora", "qlora", "prefix", "prompt", "ia3", "loha", "lokr", "oft", "vera", "full"] = setting(
        "lora",
        doc="Adapter trained on the frozen base ([which to choose](adapters.md)). `qlora` is `lora` with "
        "`JOB_QUANTIZATION=nf4`; `full` is none: all weights of the model are trained, and published under `model/`.",
        why="megabytes to store, nearly the quality of full tuning",
    )
    adapter_uri: ModelUri | None = setting(
        None,
        doc="An adapter that training starts from: the output of an earlier run (`s3://`, `hf://` or a folder), or the "
        "folder of an adapter. It is one of `JOB_MODEL`.",
        why="a new adapter on the base",
    )
    adapter_start: Literal["continue", "merge"] | None = setting(
        None,
        doc="What becomes of it: `continue` trains it on, `merge` adds it to the base in memory, and a new adapter is "
        "trained on top.",
        why="`continue` for sft; `merge` for the others, whose reference or base is the model that it makes",
    )
    quantization: Literal["auto", Quantization] = setting(
        "auto",
        doc="How the frozen base is held: `none` (16 bit; 32 bit on a CPU), `int8`, or `nf4` (4 bit, with double "
        "quantization).",
        why="none if any strategy then fits into the memory of these GPUs, else nf4 where the adapter can stand on it; "
        "decided once for a run",
    )
    lora_r: int = setting(16, doc="LoRA rank.", ge=1)
    lora_alpha: int = setting(32, doc="LoRA scaling numerator; the update is scaled by alpha / r.", ge=1)
    lora_dropout: float = setting(
        0.0, doc="Dropout on the adapter's input.", why="0 saves up to half of the activations", ge=0, lt=1
    )
    use_rslora: bool = setting(
        False,
        doc="LoRA scaled by alpha / √r instead, so that high ranks learn as fast as low ones.",
        why="the tutorials' alphas are for alpha / r",
    )
    use_dora: bool = setting(
        False,
        doc="LoRA that trains the length of every output's weights apart (DoRA).",
        why="a little better at low ranks, and a third slower",
    )
    init_lora_weights: InitLoraWeights = setting(
        "true",
        doc="How LoRA begins: `true` (A random, B zero), `gaussian`, `orthogonal`, `false` (both random), or with "
        "parts of the base's own weights: `pissa`, `pissa_niter_16` (approximate, and much faster), `olora`.",
        why="begins as the base model",
    )
    num_virtual_tokens: int = setting(
        20, doc="With `prefix` and `prompt`: tokens that are learned and put before every row.", ge=1
    )
    target_modules: tuple[str, ...] = setting(
        ("all-linear",),
        doc="Modules that get an adapter; `all-linear` is every linear layer but the head, and of a mixture of experts "
        "those of attention.",
        why="adapters on all layers learn nearly as well as full tuning; those of experts would take tens of GiB",
    )
    modules_to_save: tuple[str, ...] = setting(
        (),
        doc="Modules that are trained whole beside the adapter and published with it, such as `lm_head`.",
        why="one of them is larger than the adapter",
    )
    peft_args: PeftArgs = setting(
        {}, doc='Any other field of the adapter\'s PEFT config, as JSON: `{"rank_pattern": {"down_proj": 32}}`.'
    )
