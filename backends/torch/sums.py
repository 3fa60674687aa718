"""Operands repeated along axes, so that autograd sums their gradients as every sum here is made: by `sum_to`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from scanlib.backends.torch.run import promote, sum_to
from scanlib.call import Shape


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


class Spread(torch.autograd.Function):
    """`expand` with `sum_to` as its gradient."""

    generate_vmap_rule = True

    @staticmethod
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
