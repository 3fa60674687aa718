"""The recurrence one step of time after the other, in PyTorch: what a parallel scan is compared with.

Each scan takes what the cells give `scanlib.linear_recurrence` and returns the same, differentiably.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import scanlib


class Loops(NamedTuple):
    """Two functions of contiguous (T, channels) tensors that fill their last arguments; `first` is (channels,).

    `forward(a, x, first, h)` and `backward(grad_h, a, h, first, grad_a, grad_x)`.
    """

    forward: Callable[..., None]
    backward: Callable[..., None]


def scans(device: str) -> dict[str, Any]:
    """Every scan by its name in Table 2; None leaves a layer as it is."""
    found: dict[str, Any] = {"own": None, "parallel": scanlib.linear_recurrence}
    if torch.device(device).type == "cuda" and importlib.util.find_spec("triton"):
        from bench.gpu import serial_triton

        found["serial"] = _scan(Loops(serial_triton.forward, serial_triton.backward))
    elif torch.device(device).type == "cpu" and importlib.util.find_spec("numba"):
        found["serial"] = _scan(_numba_loops())
    return found | {"steps": _scan(Loops(_steps_forward, _steps_backward))}


def _scan(loops: Loops) -> Callable[..., Any]:
    def linear_recurrence(
        a: Tensor, x: Tensor, h0: Tensor | None = None, *, axis: int, return_final: bool = False
    ) -> Any:
        h0 = x.new_zeros(()) if h0 is None else h0
        h = _Serial.apply(a.movedim(axis, 0), x.movedim(axis, 0), h0, loops)
        return (h.movedim(0, axis), h[-1]) if return_final else h.movedim(0, axis)

    return linear_recurrence


class _Serial(torch.autograd.Function):
    """h_t = a_t h_{t-1} + x_t along axis 0, and its gradient."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, x: Tensor, h0: Tensor, loops: Loops) -> Tensor:
        shape = x.shape
        a, x = (t.expand(shape).reshape(len(x), -1).contiguous() for t in (a, x))
        first = h0.expand(shape[1:]).reshape(-1).contiguous()
        h = torch.empty_like(x)
        loops.forward(a, x, first, h)
        ctx.save_for_backward(a, h, first)
        ctx.loops, ctx.shape, ctx.h0_shape = loops, shape, h0.shape
        return h.reshape(shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        a, h, first = ctx.saved_tensors
        grad_a, grad_x = torch.empty_like(h), torch.empty_like(h)
        ctx.loops.backward(grad.reshape(h.shape).contiguous(), a, h, first, grad_a, grad_x)
        grad_h0 = (a[0] * grad_x[0]).reshape(ctx.shape[1:]).sum_to_size(ctx.h0_shape)
        return grad_a.reshape(ctx.shape), grad_x.reshape(ctx.shape), grad_h0, None


def _steps_forward(a: Tensor, x: Tensor, first: Tensor, h: Tensor) -> None:
    state = first
    for a_t, x_t, h_t in zip(a.unbind(), x.unbind(), h.unbind(), strict=True):
        state = torch.addcmul(x_t, a_t, state, out=h_t)


def _steps_backward(
    grad: Tensor, a: Tensor, h: Tensor, first: Tensor, grad_a: Tensor, grad_x: Tensor
) -> None:
    grad_x[-1] = state = grad[-1]
    steps = zip(a.unbind()[:0:-1], grad.unbind()[-2::-1], grad_x.unbind()[-2::-1], strict=True)
    for ahead, grad_t, out in steps:
        state = torch.addcmul(grad_t, ahead, state, out=out)
    torch.mul(grad_x[1:], h[:-1], out=grad_a[1:])
    torch.mul(grad_x[0], first, out=grad_a[0])


def _numba_loops() -> Loops:
    import numba

    @numba.njit
    def forward(a: Any, x: Any, first: Any, h: Any) -> None:
        for t in range(len(a)):
            before = h[t - 1] if t else first
            for c in range(a.shape[1]):
                h[t, c] = a[t, c] * before[c] + x[t, c]

    @numba.njit
    def backward(grad: Any, a: Any, h: Any, first: Any, grad_a: Any, grad_x: Any) -> None:
        last = len(a) - 1
        for c in range(a.shape[1]):
            grad_x[last, c] = grad[last, c]
        for t in range(last, -1, -1):
            before = h[t - 1] if t else first
            for c in range(a.shape[1]):
                if t < last:
                    grad_x[t, c] = grad[t, c] + a[t + 1, c] * grad_x[t + 1, c]
                grad_a[t, c] = grad_x[t, c] * before[c]

    def of_tensors(loop: Any) -> Callable[..., None]:
        return lambda *tensors: loop(*(t.detach().numpy() for t in tensors))

    return Loops(of_tensors(forward), of_tensors(backward))
