"""How many bytes of tensors live at a time, and what a GPU's kernels keep, on a machine without a GPU.

Both work on real CPU tensors and on fake ones, which have shapes and lifetimes but no data.
"""

import weakref
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

# Operations that autocast runs in float32 on CUDA but not on a CPU (docs of torch.amp, "CUDA Ops that can autocast to
# float32"); those that language models use.
_FLOAT32 = {"layer_norm", "group_norm", "softmax", "log_softmax", "softplus", "logsumexp", "cumsum", "prod", "sum"}
_FLOAT32 |= {"exp", "log", "pow", "rsqrt"}
_HALVES = (torch.bfloat16, torch.float16)


class Bytes(NamedTuple):
    of_a_token: float
    fixed: float  # whatever the number of tokens


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every tensor that is made while it is active, until nothing holds its storage any more.

    What belongs to the tokens is told from the rest by its size: *tokens* is a prime number, and a storage that it
    divides has a dimension of tokens.
    """

    def __init__(self, tokens: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tokens = tokens
        self._live = {True: 0, False: 0}  # bytes, of tokens or not
        self._peak = {True: 0, False: 0}
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    @property
    def live(self) -> Bytes:
        return Bytes(self._live[True] / self._tokens, self._live[False])

    @property
    def peak(self) -> Bytes:
        return Bytes(self._peak[True] / self._tokens, self._peak[False])

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {leaf.untyped_storage()._cdata for leaf in tree_iter((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        for leaf in tree_iter(result):
            if isinstance(leaf, torch.Tensor):
                self._follow(leaf.untyped_storage(), inputs)
        return result

    def _follow(self, storage: torch.UntypedStorage, inputs: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in inputs or key in self._storages:  # a view, or written in place
            return
        self._storages[key] = weakref.ref(storage, lambda _: self._forget(key, size))
        self._count(size, size)

    def _forget(self, key: int, size: int) -> None:
        del self._storages[key]
        self._count(size, -size)

    def _count(self, size: int, change: int) -> None:
        of_tokens = size % self._tokens == 0
        self._live[of_tokens] += change
        self._peak[of_tokens] = max(self._peak[of_tokens], self._live[of_tokens])


class GpuKernels(TorchFunctionMode):
    """Has the forward pass keep what it keeps on CUDA, where a CPU's kernels keep something else."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.dropout:
            return _dropout(*args, **kwargs)
        if func is functional.scaled_dot_product_attention:
            return _FusedAttention.apply(*args[:3], kwargs.get("attn_mask"))  # type: ignore[no-untyped-call]
        if func.__name__ in _FLOAT32 and torch.is_autocast_enabled("cpu") and kwargs.get("dtype") is None:
            args, kwargs = tree_map_only(torch.Tensor, _float, (args, kwargs))
        return func(*args, **kwargs)


def _float(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in _HALVES else tensor


def _dropout(hidden: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    # CUDA keeps the mask as booleans; a CPU keeps it as numbers of the input's dtype (ATen/native/Dropout.cpp).
    return torch.native_dropout(hidden, p, train=True)[0] if training and p else hidden


class _FusedAttention(torch.autograd.Function):
    """The memory of CUDA's fused attention kernels, not their numbers. Shapes: (batch, heads, tokens, head_dim)."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        # The memory-efficient kernel keeps a mask of the query's dtype (ATen, convert_boolean_attn_mask).
        mask = None if mask is None else mask.to(query.dtype)
        out = torch.empty_like(query)
        log_sum_exp = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, log_sum_exp, mask)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, _, log_sum_exp, _ = ctx.saved_tensors
        # Beside the three gradients, ATen's flash_attn mha_bwd holds the query's in float32, one number per row, and,
        # of grouped heads, the gradients of key and value at the query's number of heads.
        held = [torch.empty_like(query, dtype=torch.float32), torch.empty_like(log_sum_exp)]
        if key.shape[1] != query.shape[1]:
            held += [torch.empty_like(query), torch.empty_like(query)]
        gradients = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        del held
        return (*gradients, None)
