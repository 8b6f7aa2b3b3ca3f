"""How many parameters an adapter trains, by PEFT's own shapes (0.21, tuners/*/layer.py), without PEFT."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

Fields = Mapping[str, Any]


class Module(NamedTuple):
    """Linear modules of one name and shape."""

    name: str
    inputs: int
    outputs: int
    number: int  # of them in the model


def in_modules(adapter: str, fields: Fields, modules: Iterable[Module], feedforward: Iterable[str]) -> int:
    """Parameters of *adapter* with *fields* (`job.adapters.peft_fields`) in all *modules*; *feedforward* is what
    (IA)³ takes for modules whose input it scales."""
    if adapter == "ia3":
        return sum(_ia3(module, tuple(feedforward)) * module.number for module in modules)
    return sum(_SIZES[adapter](module, fields) * module.number for module in modules)


def _lora(module: Module, fields: Fields) -> int:
    """A (r × in), B (out × r), and with DoRA the length of every output's weights."""
    lengths = module.outputs if fields.get("use_dora") else 0
    return int(fields["r"] * (module.inputs + module.outputs) + lengths)


def _ia3(module: Module, feedforward: tuple[str, ...]) -> int:
    scales_input = any(f".{module.name}".endswith(f".{name}") for name in feedforward)
    return module.inputs if scales_input else module.outputs


def _loha(module: Module, fields: Fields) -> int:
    """Two products of the shapes of LoRA's, multiplied element by element."""
    return int(2 * fields["r"] * (module.inputs + module.outputs))


def _lokr(module: Module, fields: Fields) -> int:
    """A small matrix and a large one, whose Kronecker product has the weight's shape; each in two factors where that
    is smaller."""
    small_in, large_in = _two_factors(module.inputs, fields["decompose_factor"])
    small_out, large_out = _two_factors(module.outputs, fields["decompose_factor"])
    r = fields["r"]
    small_too = fields["decompose_both"] and r < max(small_out, small_in) / 2
    small = r * (small_out + small_in) if small_too else small_out * small_in
    large = r * (large_out + large_in) if r < max(large_out, large_in) / 2 else large_out * large_in
    return int(small + large)


def _two_factors(size: int, wanted: int) -> tuple[int, int]:
    """The two whole numbers nearest to each other whose product is *size*, the smaller at most *wanted* (-1: any)."""
    if wanted > 0 and size % wanted == 0:
        return wanted, size // wanted
    most = size if wanted == -1 else wanted
    small = max(n for n in range(1, int(size**0.5) + 1) if size % n == 0 and n <= most)
    return small, size // small


def _oft(module: Module, fields: Fields) -> int:
    """The upper triangle of a square for each block of inputs."""
    if fields["r"]:
        block = module.inputs // _nearest_divisor(module.inputs, fields["r"])
    else:
        block = _nearest_divisor(module.inputs, fields["oft_block_size"])
    blocks = 1 if fields["block_share"] else module.inputs // block
    return blocks * (block * (block - 1) // 2)


def _nearest_divisor(size: int, wanted: int) -> int:
    """The divisor of *size* nearest to *wanted*, of two the smaller."""
    return min((n for n in range(1, size + 1) if size % n == 0), key=lambda n: (abs(n - wanted), n))


def _vera(module: Module, fields: Fields) -> int:
    """A factor for each of the r shared directions, and one for each output."""
    return int(fields["r"] + module.outputs)


_SIZES: dict[str, Callable[[Module, Fields], int]] = {
    "lora": _lora, "qlora": _lora, "loha": _loha, "lokr": _lokr, "oft": _oft, "vera": _vera,
}  # fmt: skip
