"""What cells need of an array library beside the recurrence, in the functions of the array API standard.

A library that has a better way overrides some of these in the module that its adapter names `functions`, and may hand
its own to those that are made of others. All take arrays of that library alone; axes count from the front.
"""

from __future__ import annotations

import itertools
from typing import Any

import array_api_compat

Array = Any


def namespace(array: Array) -> Any:
    """The array API namespace of an array."""
    return array_api_compat.array_namespace(array)


def device_of(v: Array) -> Any:
    """Where an array is, for functions that make another."""
    return array_api_compat.device(v)


# ---- element by element; shapes stay as they are


def sigmoid(v: Array) -> Array:
    """1 / (1 + exp(-v)), with full relative precision for negative v."""
    xp = array_api_compat.array_namespace(v)
    e = xp.exp(-xp.abs(v))
    s = 1 / (1 + e)
    return xp.where(v >= 0, s, e * s)


def softplus(v: Array) -> Array:
    """log(1 + exp(v)), without overflow."""
    xp = array_api_compat.array_namespace(v)
    size = xp.abs(v)
    return (v + size) / 2 + xp.log1p(xp.exp(-size))


def identity(v: Array) -> Array:
    return v


def tanh(v: Array) -> Array:
    return array_api_compat.array_namespace(v).tanh(v)


def positive(v: Array) -> Array:
    """v + 1/2, or sigmoid(v) where v is negative: minGRU's way to a candidate above zero (Feng et al. 2024, B.2)."""
    xp = array_api_compat.array_namespace(v)
    return xp.where(v >= 0, v + 0.5, sigmoid(v))


def silu(v: Array) -> Array:
    """v sigmoid(v)."""
    return v * sigmoid(v)


def elu(v: Array) -> Array:
    """v, or exp(v) - 1 where v is negative."""
    xp = array_api_compat.array_namespace(v)
    return xp.where(v > 0, v, xp.expm1((v - xp.abs(v)) / 2))


def convex(decay: Array, candidate: Array) -> Array:
    """(1 - decay) candidate: what enters a leaky average.

    The complement is that of the rounded decay, which is exact from 1/2 up. So a constant candidate stays a fixed
    point of the recurrence, however close to 1 the decay is.
    """
    return (1 - decay) * candidate


def sqrt_capped(v: Array) -> Array:
    """sqrt(v) whose slope is at most 1000, so that the gradient stays finite at 0 (Griffin's square-root bound)."""
    return array_api_compat.array_namespace(v).sqrt(v)


def stop_gradient(v: Array) -> Array:
    """v as a constant."""
    return v


def complex_of(real: Array, imaginary: Array) -> Array:
    """real + i imaginary."""
    xp = array_api_compat.array_namespace(real)
    dtype = xp.complex128 if real.dtype == xp.float64 else xp.complex64
    return xp.astype(real, dtype) + 1j * xp.astype(imaginary, dtype)


# ---- features: the last axis


def parts(v: Array, *sizes: int) -> list[Array]:
    """Blocks of these sizes along the last axis, as views where the library has them."""
    ends = list(itertools.accumulate(sizes))
    return [v[..., end - size : end] for size, end in zip(sizes, ends, strict=True)]


def project(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x (..., m) times weight (m, n) plus bias (n,): one multiplication of matrices whatever the other axes."""
    if x.ndim <= 2:
        y = x @ weight
    else:
        xp = array_api_compat.array_namespace(x)
        y = xp.reshape(x, (-1, x.shape[-1])) @ weight
        y = xp.reshape(y, (*x.shape[:-1], weight.shape[-1]))
    return y if bias is None else y + bias


def project_pair(
    s: Array, x: Array, weight: Array, bias: Array | None = None, *, project: Any = project
) -> Array:
    """[s, x] weight + bias, without writing s and x side by side. The first rows of `weight` are those of s."""
    size = s.shape[-1]
    return project(x, weight[size:, :], bias) + project(s, weight[:size, :])


def project_to_complex(
    x: Array, weight: Array, *, project: Any = project, complex_of: Any = complex_of
) -> Array:
    """x times a complex matrix (m, n, 2), real and imaginary parts side by side: a complex array of n features.

    As one multiplication of real matrices, in float32 at least after it.
    """
    xp = array_api_compat.array_namespace(x)
    y = project(x, xp.concat([weight[:, :, 0], weight[:, :, 1]], axis=-1))
    if getattr(y.dtype, "itemsize", 4) == 2:
        y = xp.astype(y, xp.float32)
    n = weight.shape[1]
    return complex_of(*parts(y, n, n))


def project_to_real(h: Array, weight: Array, *, project: Any = project) -> Array:
    """The real part of complex h times a complex matrix (n, 2, m), real above imaginary parts: m real features."""
    xp = array_api_compat.array_namespace(h)
    real, imaginary = weight[:, 0, :], weight[:, 1, :]
    return project(xp.real(h), real) - project(xp.imag(h), imaginary)


# ---- time


def part(v: Array, axis: int, start: int, stop: int) -> Array:
    """Steps `start` to `stop`."""
    return v[(slice(None),) * axis + (slice(start, stop), ...)]


def at(v: Array, axis: int, t: int) -> Array:
    """One step, without the axis."""
    return v[(slice(None),) * axis + (t, ...)]


def running_maximum(v: Array, axis: int, start: Array | None = None) -> Array:
    """The largest element so far along an axis, as a constant for gradients.

    Parameters
    ----------
    v : array, shape (..., T, ...)
    start : boolean array, shape of v, optional
        Where to begin anew.
    """
    # By doubling: after the k-th pass each element has seen the 2^k last ones.
    xp, steps, reach = array_api_compat.array_namespace(v), v.shape[axis], 1
    while reach < steps:
        # An element that has reached a start, or the first element, takes in nothing more.
        earlier, later = part(v, axis, 0, steps - reach), part(v, axis, reach, steps)
        largest = xp.maximum(earlier, later)
        if start is not None:
            done = part(start, axis, reach, steps)
            largest = xp.where(done, later, largest)
            more = done | part(start, axis, 0, steps - reach)
            start = xp.concat([part(start, axis, 0, reach), more], axis=axis)
        v = xp.concat([part(v, axis, 0, reach), largest], axis=axis)
        reach *= 2
    return v
