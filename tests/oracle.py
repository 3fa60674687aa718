"""What is right: the recurrence and its gradient as serial loops, in float64 or complex128 unless told otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def wide(*arrays: Array | None) -> np.dtype[Any]:
    """float64, or complex128 where one of the arrays is complex."""
    return np.dtype(
        complex if any(v is not None and v.dtype.kind == "c" for v in arrays) else float
    )


def recurrence(
    a: Array,
    x: Array,
    h0: Array | None = None,
    *,
    axis: int = 0,
    reverse: bool = False,
    dtype: Any = None,
) -> tuple[Array, Array]:
    """h and the final state of h_t = a_t h_{t-1} + x_t, each step rounded to `dtype`."""
    dtype = dtype or wide(a, x, h0)
    a, x = (np.moveaxis(v.astype(dtype), axis, 0) for v in np.broadcast_arrays(a, x))
    h = np.empty(x.shape, dtype)
    state = np.broadcast_to(np.zeros((), dtype) if h0 is None else h0.astype(dtype), h.shape[1:])
    for t in reversed(range(len(h))) if reverse else range(len(h)):
        h[t] = state = a[t] * state + x[t]
    return np.moveaxis(h, 0, axis), state


def gradients(
    grad_h: Array,
    a: Array,
    h: Array,
    h0: Array | None = None,
    grad_final: Array | None = None,
    *,
    axis: int = 0,
    reverse: bool = False,
    dtype: Any = None,
) -> tuple[Array, Array, Array]:
    """grad_a and grad_h0 at their full, broadcast shapes, and grad_x; conjugated convention."""
    dtype = dtype or wide(grad_h, a, h, h0, grad_final)
    grad_h, a, h = (
        np.moveaxis(np.broadcast_to(v, h.shape).astype(dtype), axis, 0) for v in (grad_h, a, h)
    )
    first = np.broadcast_to(np.zeros((), dtype) if h0 is None else h0.astype(dtype), h.shape[1:])
    carry = np.zeros(h.shape[1:], dtype) if grad_final is None else grad_final.astype(dtype)
    grad_a, grad_x = np.empty_like(h), np.empty_like(h)
    steps = list(range(len(h)))[:: -1 if reverse else 1]
    for i in reversed(range(len(steps))):
        t = steps[i]
        grad_x[t] = g = grad_h[t] + carry
        grad_a[t] = g * np.conj(h[steps[i - 1]] if i else first)
        carry = np.conj(a[t]) * g
    return np.moveaxis(grad_a, 0, axis), np.moveaxis(grad_x, 0, axis), np.array(carry)


def sum_to(grad: Array, shape: tuple[int, ...]) -> Array:
    """The gradient of an array of `shape` from that of its broadcast."""
    missing = grad.ndim - len(shape)
    axes = tuple(d for d in range(grad.ndim) if d < missing or shape[d - missing] == 1)
    return np.asarray(grad.sum(axis=axes)).reshape(shape)
