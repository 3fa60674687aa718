"""Operands repeated along axes: autograd sums their gradients as every sum here is made, by `sum_to`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from scanlib.backends.torch.dtypes import promote
from scanlib.call import Shape, reduced_axes

#: Parts of a sum to one number; where each has so few elements, torch makes the sum on one thread.
PARTS = 64


def sum_to(gradient: Tensor, shape: Shape) -> Tensor:
    """The sum over the axes along which `shape` was repeated, in float32 at least and in one order; differentiable.

    torch cuts its sum of very many elements to a single number into as many parts as there are threads, so that the
    last bits depend on their number. Such a sum is made in two stages here; torch gives each output of the first to
    one thread.
    """
    count = gradient.numel()
    if torch.compiler.is_compiling() or type(count) is not int:
        return gradient.sum_to_size(shape)
    if gradient.shape == shape:
        return gradient
    wide = promote(gradient.dtype, torch.float32)
    if not gradient.is_cpu or count <= PARTS**2 or any(length != 1 for length in shape):
        axes = reduced_axes(tuple(shape), tuple(gradient.shape))
        return gradient.sum(axes, dtype=wide).reshape(shape)
    flat, rest = gradient.reshape(-1), count % PARTS
    parts = flat[: count - rest].unflatten(0, (PARTS, -1)).sum(1, dtype=wide)
    return (parts.sum() + flat[count - rest :].sum(dtype=wide)).reshape(shape)


def spread(tensor: Tensor, shape: Shape) -> Tensor:
    """`tensor.expand(shape)`, whose gradient is `sum_to`."""
    # A compiler makes the sum in its own way, and its lengths may be symbols.
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and tensor.requires_grad):
        return tensor.expand(shape)
    return tensor if tensor.shape == shape else Spread.apply(tensor, shape)


def spread_state(state: Tensor | None, shape: Shape) -> Tensor | None:
    """The same for a state, in float32 at least where it is repeated: kernels then round no term of the sum."""
    if state is None:
        return None
    if tuple(state.shape) != shape:
        state = state.to(promote(state.dtype, torch.float32))
    return spread(state, shape)


_POSITIONAL = inspect.Signature([inspect.Parameter("arguments", inspect.Parameter.VAR_POSITIONAL)])


def positional(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Called by position alone. torch looks the signature up at every call, which takes longer than a small one."""
    forward.__signature__ = _POSITIONAL  # type: ignore[attr-defined]
    return forward


class Spread(torch.autograd.Function):
    """`expand` with `sum_to` as its gradient."""

    generate_vmap_rule = True

    @staticmethod
    @positional
    def forward(tensor: Tensor, shape: Shape) -> Tensor:
        return tensor.expand(shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        tensor, ctx.to = inputs
        ctx.own, ctx.dtype = tuple(tensor.shape), tensor.dtype

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return sum_to(gradient, ctx.own).to(ctx.dtype), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        with forward_ad._set_fwd_grad_enabled(True):  # as in `autograd._primals`
            return tangent.expand(ctx.to)
