"""The torch operators `scanlib::scan` and `scanlib::scan_backward`, and the short way past torch's dispatcher.

Both take `x`, `h`, `h0` and gradients at full size (expanded views do). Their derivatives are in `autograd.py`.
Each device is one more `LIBRARY.impl` of the same two operators.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from scanlib.backends.torch.plans import empty_final, empty_grads, empty_result
from scanlib.backends.torch.run import backward, forward

# Compilers must not change the strides of the inputs: those of the outputs follow from them.
_TAGS = (
    torch.Tag.pt2_compliant_tag,
    getattr(torch.Tag, "needs_exact_strides", torch.Tag.needs_fixed_stride_order),
)

LIBRARY = torch.library.Library("scanlib", "DEF")
# `h` and `final` have the dtype given; without return_final `final` has the shape (0,), so there are always two.
LIBRARY.define(
    "scan(Tensor a, Tensor x, Tensor? h0, int axis, bool reverse, bool return_final, ScalarType dtype, "
    "Tensor? reset=None, Tensor? offsets=None) -> (Tensor h, Tensor final)",
    tags=_TAGS,
)
# grad_a is summed to a's shape; grad_x has h's shape and the dtype given; grad_h0 is like h0, of shape (0,) without it.
LIBRARY.define(
    "scan_backward(Tensor grad_h, Tensor? grad_final, Tensor a, Tensor h, Tensor? h0, int axis, bool reverse, "
    "ScalarType x_dtype, Tensor? reset=None, Tensor? offsets=None) "
    "-> (Tensor grad_a, Tensor grad_x, Tensor grad_h0)",
    tags=_TAGS,
)
scan_op = torch.ops.scanlib.scan.default
scan_backward_op = torch.ops.scanlib.scan_backward.default


@torch.library.register_fake("scanlib::scan", lib=LIBRARY)
def _scan_fake(
    a: Tensor,
    x: Tensor,
    h0: Tensor | None,
    axis: int,
    reverse: bool,
    return_final: bool,
    dtype: torch.dtype,
    reset: Tensor | None = None,
    offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    return empty_result(a, x, dtype), empty_final(x, axis, return_final, dtype, offsets)


@torch.library.register_fake("scanlib::scan_backward", lib=LIBRARY)
def _scan_backward_fake(
    grad_h: Tensor,
    grad_final: Tensor | None,
    a: Tensor,
    h: Tensor,
    h0: Tensor | None,
    axis: int,
    reverse: bool,
    x_dtype: torch.dtype,
    reset: Tensor | None = None,
    offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    return empty_grads(a, h, h0, x_dtype)


def _scan(
    a: Tensor,
    x: Tensor,
    h0: Tensor | None,
    axis: int,
    reverse: bool,
    return_final: bool,
    dtype: torch.dtype,
    reset: Tensor | None = None,
    offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    h, final = forward(a, x, h0, axis, reverse, return_final, dtype, None, reset, offsets)
    return h, empty_final(x, axis, False, dtype) if final is None else final


for _device in ("CPU", "CUDA"):
    LIBRARY.impl("scan", _scan, _device)
    LIBRARY.impl("scan_backward", backward, _device)


# ---- the short way past torch's dispatcher, which costs more than a small recurrence

transformed = torch._C._are_functorch_transforms_active
_function_modes = torch._C._len_torch_function_stack
_dispatch_modes = torch._C._len_torch_dispatch_stack
_tracing = torch._C._get_tracing_state
_is_batched = torch._C._functorch.is_legacy_batchedtensor


#: What looks on at a call: a transform, a mode, a compiler or what is unknown; autograd alone; nothing.
WATCHED, RECORDED, PLAIN = range(3)


def watched_by(*tensors: Any) -> int:
    """`PLAIN` for plain tensors of one CPU or GPU (some may be None) that nothing in torch watches.

    `RECORDED` where autograd does, because one of them requires a gradient; else `WATCHED`.
    """
    if (
        transformed()
        or _function_modes()
        or _dispatch_modes()
        or forward_ad._current_level >= 0
        or _tracing() is not None
    ):
        return WATCHED
    found, device = PLAIN, -2
    for tensor in tensors:
        if tensor is None:
            continue
        if type(tensor) is not Tensor and type(tensor) is not Parameter:
            return WATCHED
        if tensor.requires_grad:
            found = RECORDED
        # The keys by which torch finds a tensor's kernels tell all that `_plain_device` asks for.
        keys = _dispatch_keys(tensor).raw_repr()
        own = _PLACES.get(keys)
        if own is None:
            own = _plain_device(tensor)
            if own is None:
                return WATCHED
            _PLACES[keys] = own
        if own is GPU:
            own = tensor.get_device()
        if own != device and device != -2:
            return WATCHED
        device = own
    return found if found == PLAIN or torch.is_grad_enabled() else PLAIN


def is_plain_call(*tensors: Any) -> bool:
    """Whether these are plain tensors of one CPU or GPU (some may be None) that nothing in torch watches."""
    return watched_by(*tensors) == PLAIN


CPU, GPU = -1, "GPU"
_dispatch_keys = torch._C._dispatch_keys
#: Where plain tensors of given keys are: on the CPU, or on some GPU.
_PLACES: dict[int, Any] = {}


def _plain_device(tensor: Tensor) -> Any:
    """`CPU` or `GPU`; None where the tensor is not plain."""
    wrapper = torch._is_functional_tensor(
        tensor
    ) or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    if wrapper or tensor.is_neg() or not ordinary(tensor):
        return None
    return CPU if tensor.is_cpu else GPU if tensor.is_cuda else None


def run_scan(a: Tensor, x: Tensor, h0: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor]:
    """`scanlib::scan`, past the dispatcher where that changes nothing; with all of its arguments."""
    return (
        _scan(a, x, h0, *rest) if is_plain_call(a, x, h0, *rest[-2:]) else scan_op(a, x, h0, *rest)
    )


def run_scan_backward(
    grad_h: Tensor, grad_final: Tensor | None, a: Tensor, h: Tensor, h0: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """`scanlib::scan_backward`, past the dispatcher where that changes nothing; with all of its arguments."""
    if is_plain_call(a, h, h0, grad_h, grad_final, *rest[-2:]):
        return backward(grad_h, grad_final, a, h, h0, *rest)
    return scan_backward_op(grad_h, grad_final, a, h, h0, *rest)


def ordinary(tensor: Tensor) -> bool:
    """Whether the tensor's memory holds its values: not sparse, conjugated, zeros without memory, or batched.

    Batched by torch.autograd.grad(is_grads_batched=True), that is, which does not show as a transform.
    """
    return tensor.layout is torch.strided and not (
        tensor.is_conj() or tensor._is_zerotensor() or tensor.is_nested or _is_batched(tensor)
    )
