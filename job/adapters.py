"""The adapters that a job can train: of each what PEFT calls it, which settings are its own, and what it begins as. And
``full``, which is none: the weights of the model themselves.

What upstream can combine them with stands in `job.compatibility`. PEFT itself is imported by the worker alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from job.peft_fields import IA3_FEEDFORWARD
from job.settings import Settings

_TARGETED = frozenset({"target_modules", "modules_to_save"})
_LORA = frozenset({"lora_r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "init_lora_weights"})
_PROMPTED = frozenset({"num_virtual_tokens"})
# Settings that only some adapters have.
SPECIAL = ("target_modules", "modules_to_save", *sorted(_LORA), "num_virtual_tokens")


@dataclass(frozen=True)
class Kind:
    """One value of ``JOB_ADAPTER``."""

    config: str  # PEFT's class; none for all weights
    label: str
    settings: frozenset[str]  # of SPECIAL, those that it has
    # Every adapted module has a tensor of this name, which holds this value until something is learned. A LoRA that
    # begins with parts of the base's weights (PiSSA, OLoRA) does not.
    mark: str
    neutral: float | None
    # Fields of PEFT's class that decide its size, where no setting does: PEFT's own defaults.
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        """Whether the model itself is trained, with nothing beside it."""
        return not self.config

    @property
    def folder(self) -> str:
        """Where the result's weights lie in an output."""
        return "model" if self.is_full else "adapter"

    @property
    def file(self) -> str:
        """The weights themselves there; a large model has several parts of that name."""
        return "model.safetensors" if self.is_full else "adapter_model.safetensors"

    @property
    def is_prompt(self) -> bool:
        """Whether it stands before the rows, as virtual tokens, and not inside the model's modules."""
        return "num_virtual_tokens" in self.settings


_LORA_KIND = Kind("LoraConfig", "LoRA", _TARGETED | _LORA, "lora_B", 0.0)
KINDS: dict[str, Kind] = {
    "lora": _LORA_KIND,
    "qlora": Kind("LoraConfig", "QLoRA", _TARGETED | _LORA, "lora_B", 0.0),
    "prefix": Kind("PrefixTuningConfig", "prefix tuning", _PROMPTED, "prompt_encoder", None),
    "prompt": Kind("PromptTuningConfig", "prompt tuning", _PROMPTED, "prompt_encoder", None),
    "ia3": Kind("IA3Config", "(IA)³", _TARGETED, "ia3_l", 1.0),
    "loha": Kind("LoHaConfig", "LoHa", _TARGETED, "hada_w2_b", 0.0, {"r": 8, "alpha": 8}),
    "lokr": Kind(
        "LoKrConfig",
        "LoKr",
        _TARGETED,
        "lokr_w1",
        0.0,
        {"r": 8, "alpha": 8, "decompose_both": False, "decompose_factor": -1},
    ),
    "oft": Kind("OFTConfig", "OFT", _TARGETED, "oft_R", 0.0, {"r": 0, "oft_block_size": 32, "block_share": False}),
    "vera": Kind("VeraConfig", "VeRA", _TARGETED, "vera_lambda_b", 0.0, {"r": 256, "d_initial": 0.1}),
    "full": Kind("", "all weights", frozenset(), "", None),
}


def have(setting: str) -> list[str]:
    """The adapters that *setting* belongs to."""
    return [name for name, kind in KINDS.items() if setting in kind.settings]


def changes_base(spec: Settings) -> bool:
    """Whether the adapter takes parts of the base's weights to begin with, which are then missing there."""
    return str(spec.init_lora_weights).startswith(("pissa", "olora")) and "lora_r" in KINDS[spec.adapter].settings


def peft_fields(spec: Settings) -> dict[str, Any]:
    """The fields of PEFT's config that *spec* asks for, but for what depends on the model's modules."""
    kind = KINDS[spec.adapter]
    fields: dict[str, Any] = {}
    if kind.is_prompt:
        fields = {"num_virtual_tokens": spec.num_virtual_tokens}
    if "lora_r" in kind.settings:
        fields = {
            "r": spec.lora_r,
            "lora_alpha": spec.lora_alpha,
            "lora_dropout": spec.lora_dropout,
            "use_rslora": spec.use_rslora,
            "use_dora": spec.use_dora,
            "init_lora_weights": _init(spec.init_lora_weights),
            "bias": "none",
        }
    if "target_modules" in kind.settings:
        fields |= {"target_modules": list(spec.target_modules), "modules_to_save": list(spec.modules_to_save) or None}
    if "r" in spec.peft_args and spec.adapter == "oft":
        fields |= {"oft_block_size": 0}  # PEFT takes one of the two
    if "oft_block_size" in spec.peft_args:
        fields |= {"r": 0}
    return dict(kind.fields) | fields | spec.peft_args


def feedforward_modules(model_type: str, fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Modules of which (IA)³ scales the input instead of the output: those that write what the MLP has worked out
    (arXiv 2205.05638, section 3.3), by PEFT's names for the architecture, unless *fields* name others."""
    asked = fields.get("feedforward_modules")
    return (
        (asked,) if isinstance(asked, str) else tuple(IA3_FEEDFORWARD.get(model_type, ()) if asked is None else asked)
    )


def summary(spec: Settings) -> str:
    """The adapter of *spec* in a line: ``LoRA r=16 lora_alpha=32 …``."""
    shown = {name: value for name, value in peft_fields(spec).items() if _is_telling(name, value)}
    return " ".join([KINDS[spec.adapter].label, *(f"{name}={value}" for name, value in shown.items())])


def _is_telling(name: str, value: Any) -> bool:
    """Whether a field of PEFT's says more than that nothing was asked for."""
    if isinstance(value, bool):
        return value and name.startswith("use_")
    return (
        name != "bias"
        and value is not None
        and value != ["all-linear"]
        and not (name.endswith("dropout") and not value)
    )


def virtual_tokens(spec: Settings) -> int:
    """Tokens that the adapter puts before every row."""
    return spec.num_virtual_tokens if KINDS[spec.adapter].is_prompt else 0


def _init(text: str) -> bool | str:
    return {"true": True, "false": False}.get(text, text)
