"""The Trainer's optimizers that need no package besides those of the image, by its names, and what each keeps."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Optimizer:
    """What an optimizer keeps for each trained parameter."""

    states: float  # numbers
    state_bytes: float | None = None  # of each; None: as many as the parameter's own have
    paged: bool = False  # they give way to the host's memory when the GPU's is full

    @property
    def from_bitsandbytes(self) -> bool:
        """Whether its states have a precision of their own, which torch's have not."""
        return self.state_bytes is not None


# One byte, and a 32-bit maximum for every 256 of them (bitsandbytes 0.50, optim/optimizer.py, blockwise).
_8_BITS = 1 + 4 / 256
OPTIMIZERS: dict[str, Optimizer] = {
    "adamw_torch_fused": Optimizer(2),
    "adamw_torch": Optimizer(2),
    "adafactor": Optimizer(0.01),  # a row and a column of each matrix (arXiv 1804.04235)
    "adagrad": Optimizer(1),
    "rmsprop": Optimizer(1),
    "sgd": Optimizer(0),
    "adamw_8bit": Optimizer(2, _8_BITS),
    "adamw_bnb_8bit": Optimizer(2, _8_BITS),
    "paged_adamw_32bit": Optimizer(2, 4, paged=True),
    "paged_adamw_8bit": Optimizer(2, _8_BITS, paged=True),
    "ademamix": Optimizer(3, 4),
    "ademamix_8bit": Optimizer(3, _8_BITS),
    "paged_ademamix_32bit": Optimizer(3, 4, paged=True),
    "paged_ademamix_8bit": Optimizer(3, _8_BITS, paged=True),
    "lion_32bit": Optimizer(1, 4),
    "lion_8bit": Optimizer(1, _8_BITS),
    "paged_lion_32bit": Optimizer(1, 4, paged=True),
    "paged_lion_8bit": Optimizer(1, _8_BITS, paged=True),
    "rmsprop_bnb": Optimizer(1, 4),
    "rmsprop_bnb_8bit": Optimizer(1, _8_BITS),
    "rmsprop_bnb_32bit": Optimizer(1, 4),
}
