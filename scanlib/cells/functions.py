"""Functions of arrays that the array API standard lacks: the library's own where it has one, the standard's otherwise.

No array library is imported here: the one an array belongs to is imported already.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import array_api_compat

from scanlib.dispatch import kind_of
from scanlib.problem import Shape

Array = Any


def namespace(array: Array) -> Any:
    """The array API namespace of an array."""
    # As array_api_compat.array_namespace, in a way that torch.compile can trace, and in a fraction of the time.
    match kind_of(array):
        case "torch":
            from array_api_compat import torch

            return torch
        case "numpy":
            from array_api_compat import numpy

            return numpy
        case "jax":
            import jax.numpy

            return jax.numpy
    return array_api_compat.array_namespace(array)


# ---- element by element


def sigmoid(v: Array) -> Array:
    """1 / (1 + exp(-v)), with full relative precision for negative v."""
    match kind_of(v):
        case "torch":
            return v.sigmoid()
        case "jax":
            import jax

            return jax.nn.sigmoid(v)
    xp = namespace(v)
    e = xp.exp(-xp.abs(v))
    s = 1 / (1 + e)
    return xp.where(v >= 0, s, e * s)


def softplus(v: Array) -> Array:
    """log(1 + exp(v)), without overflow."""
    match kind_of(v):
        case "torch":
            import torch

            # The default threshold of 20 is off by 2e-9, which float64 sees.
            return torch.nn.functional.softplus(v, threshold=40)
        case "jax":
            import jax

            return jax.nn.softplus(v)
    xp = namespace(v)
    size = xp.abs(v)
    return (v + size) / 2 + xp.log1p(xp.exp(-size))


def silu(v: Array) -> Array:
    """v sigmoid(v)."""
    if kind_of(v) == "torch":
        import torch

        return torch.nn.functional.silu(v)
    return v * sigmoid(v)


def elu(v: Array) -> Array:
    """v, or exp(v) - 1 where v is negative."""
    match kind_of(v):
        case "torch":
            import torch

            return torch.nn.functional.elu(v)
        case "jax":
            import jax

            return jax.nn.elu(v)
    xp = namespace(v)
    return xp.where(v > 0, v, xp.expm1((v - xp.abs(v)) / 2))


def tanh(v: Array) -> Array:
    return namespace(v).tanh(v)


def identity(v: Array) -> Array:
    return v


def convex(decay: Array, candidate: Array) -> Array:
    """(1 - decay) candidate: what enters a leaky average.

    The complement is that of the rounded decay, which is exact from 1/2 up. So a constant candidate stays a fixed
    point of the recurrence, however close to 1 the decay is.
    """
    if kind_of(decay) == "torch" and decay.dtype == candidate.dtype:
        # From 1/2 up the same product, in one pass.
        return candidate.lerp(candidate.new_zeros(()), decay)
    return (1 - decay) * candidate


def positive(v: Array) -> Array:
    """v + 1/2, or sigmoid(v) where v is negative: minGRU's way to a candidate above zero (Feng et al. 2024, B.2)."""
    xp = namespace(v)
    return xp.where(v >= 0, v + 0.5, sigmoid(v))


#: What a cell's option `activation` may be.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "identity": identity,
    "tanh": tanh,
    "elu": elu,
    "silu": silu,
    "positive": positive,
}


def sqrt_capped(v: Array) -> Array:
    """sqrt(v) whose slope is at most 1000, so that the gradient stays finite at 0 (Griffin's square-root bound)."""
    xp = namespace(v)
    if kind_of(v) not in ("torch", "jax"):
        return xp.sqrt(v)
    steep = v <= 2.5e-7
    root = xp.sqrt(xp.where(steep, xp.ones_like(v), v))
    line = xp.sqrt(stop_gradient(v)) + 1000 * (v - stop_gradient(v))
    return xp.where(steep, line, root)


def stop_gradient(v: Array) -> Array:
    """v as a constant."""
    match kind_of(v):
        case "torch":
            return v.detach()
        case "jax":
            import jax

            return jax.lax.stop_gradient(v)
    return v


# ---- dtypes


def wide(v: Array) -> Array:
    """v, in float32 if it has 16 bits: gates and states are never rounded to 8 or 11 bits."""
    if getattr(v.dtype, "itemsize", 4) != 2:
        return v
    xp = namespace(v)
    return xp.astype(v, xp.float32, copy=False)


def narrow(v: Array, like: Array) -> Array:
    """v in the dtype of `like` if that has 16 bits."""
    if getattr(like.dtype, "itemsize", 4) != 2 or v.dtype == like.dtype:
        return v
    return namespace(v).astype(v, like.dtype, copy=False)


def complex_of(real: Array, imaginary: Array) -> Array:
    """real + i imaginary."""
    match kind_of(real):
        case "torch":
            import torch

            return torch.complex(real, imaginary)
        case "jax":
            import jax

            return jax.lax.complex(real, imaginary)
    xp = namespace(real)
    dtype = xp.complex128 if real.dtype == xp.float64 else xp.complex64
    return xp.astype(real, dtype) + 1j * xp.astype(imaginary, dtype)


def zeros(shape: Shape, like: Array, dtype: Any = None) -> Array:
    """Zeros on the device of `like`, in its dtype unless told otherwise."""
    return namespace(like).zeros(shape, dtype=dtype or like.dtype, device=device_of(like))


def device_of(v: Array) -> Any:
    """Where an array is, for functions that make another."""
    # torch.compile cannot trace array_api_compat's, and JAX's tracers may lack the attribute.
    return v.device if kind_of(v) == "torch" else array_api_compat.device(v)


# ---- features


def split(v: Array, count: int) -> list[Array]:
    """`count` blocks of equal size along the last axis."""
    return parts(v, *[v.shape[-1] // count] * count)


def parts(v: Array, *sizes: int) -> list[Array]:
    """Blocks of these sizes along the last axis, as views where the library has them."""
    if kind_of(v) == "torch":
        return list(
            v.split(sizes, -1)
        )  # one pass backward; slices would take one each, over all of v
    ends = list(itertools.accumulate(sizes))
    return [v[..., end - size : end] for size, end in zip(sizes, ends, strict=True)]


def project(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x weight + bias over the last axis of x, as one multiplication of matrices whatever the other axes."""
    kind = kind_of(x)
    if kind == "torch":
        import torch

        return torch.nn.functional.linear(x, weight.mT, bias)
    if kind == "jax" or x.ndim <= 2:
        y = x @ weight
    else:
        xp = namespace(x)
        y = xp.reshape(x, (-1, x.shape[-1])) @ weight
        y = xp.reshape(y, (*x.shape[:-1], weight.shape[-1]))
    return y if bias is None else y + bias


def project_pair(s: Array, x: Array, weight: Array, bias: Array | None = None) -> Array:
    """[s, x] weight + bias, without writing s and x side by side. The first rows of `weight` are those of s."""
    size = s.shape[-1]
    if kind_of(x) == "torch" and s.shape[:-1] == x.shape[:-1]:
        import torch

        above, below = weight.split([size, x.shape[-1]])  # one pass backward, as in `parts`
        y = project(x.reshape(-1, x.shape[-1]), below, bias)
        if y.dtype == s.dtype == weight.dtype:  # not so under autocast
            # The second product is added to the first in place, which nothing else reads; on matrices, because
            # autograd copies where a view is written to. Compilers see to that themselves, and vmap has no rule for it.
            watched = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
            add = y.addmm if watched else y.addmm_
            y = add(s.reshape(-1, size), above)
            return y.reshape(*x.shape[:-1], y.shape[-1])
    return project(x, weight[size:, :], bias) + project(s, weight[:size, :])


def project_to_complex(x: Array, weight: Array) -> Array:
    """x times a complex matrix (m, n, 2), real and imaginary parts side by side: a complex array of n features.

    As one multiplication of real matrices. Where a library can see pairs of real numbers as complex ones, nothing is
    copied after it.
    """
    xp, kind, (m, n, _) = namespace(x), kind_of(x), weight.shape
    if kind not in ("torch", "numpy"):
        blocks = xp.concat([weight[:, :, 0], weight[:, :, 1]], axis=-1)
        return complex_of(*split(wide(project(x, blocks)), 2))
    y = wide(project(x, xp.reshape(weight, (m, 2 * n))))
    if kind == "numpy":
        return y.view(xp.result_type(y.dtype, xp.complex64))
    import torch

    return torch.view_as_complex(y.unflatten(-1, (n, 2)))


def project_to_real(h: Array, weight: Array) -> Array:
    """The real part of complex h times a complex matrix (n, 2, m), real above imaginary parts: m real features."""
    xp, kind, (n, _, m) = namespace(h), kind_of(h), weight.shape
    if kind not in ("torch", "numpy"):
        real, imaginary = weight[:, 0, :], weight[:, 1, :]
        return project(xp.real(h), real) - project(xp.imag(h), imaginary)
    rows = xp.reshape(xp.stack([weight[:, 0, :], -weight[:, 1, :]], axis=1), (2 * n, m))
    if kind == "numpy":
        return project(xp.ascontiguousarray(h).view(weight.dtype), rows)
    import torch

    return project(torch.view_as_real(h).flatten(-2), rows)


def project_heads(x: Array, weight: Array, bias: Array) -> tuple[Array, Array]:
    """x times two block-diagonal matrices at once, plus their biases.

    Parameters
    ----------
    x : array, shape (..., n)
    weight : array, shape (heads, n / heads, 2 n / heads)
        Both matrices' blocks side by side.
    bias : array, shape (heads, 2 n / heads)

    Returns
    -------
    two arrays, shape (..., n)
    """
    xp, (heads, width, _) = namespace(x), weight.shape
    if heads == 1:
        first, second = split(project(x, weight[0, :, :], bias[0, :]), 2)
        return first, second
    by_head = xp.permute_dims(xp.reshape(x, (-1, heads, width)), (1, 0, 2))
    y = xp.permute_dims(by_head @ weight, (1, 0, 2)) + bias
    first, second = (xp.reshape(v, x.shape) for v in split(y, 2))
    return first, second


# ---- time


def part(v: Array, axis: int, start: int, stop: int) -> Array:
    """Steps `start` to `stop`; `axis` counts from the front."""
    return v[(slice(None),) * axis + (slice(start, stop), ...)]


def at(v: Array, axis: int, t: int) -> Array:
    """One step, without the axis."""
    return v[(slice(None),) * axis + (t, ...)]


def delay(v: Array, first: Array | None, axis: int) -> Array:
    """v one step later: `first`, which has no time axis (None: zeros), then all but the last step of v."""
    xp, steps = namespace(v), v.shape[axis]
    if first is None:
        first = zeros((*v.shape[:axis], 1, *v.shape[axis + 1 :]), v)
    else:
        first = xp.astype(xp.expand_dims(first, axis=axis), v.dtype, copy=False)
    # Cut after joining, so that no array has T - 1 steps: for compilers, to which T is a symbol, such an array may have
    # one step or none, and they would have to know. None here has fewer than T.
    return part(xp.concat([first, v], axis=axis), axis, 0, steps)


def forget(v: Array, where: Array | None) -> Array:
    """v, zero where the boolean `where` says so; that has no axis for features."""
    if where is None:
        return v
    xp = namespace(v)
    return xp.where(xp.expand_dims(where, axis=-1), zeros((), v), v)


def running_maximum(v: Array, axis: int, start: Array | None = None) -> Array:
    """The largest element so far along an axis, as a constant for gradients.

    Parameters
    ----------
    v : array, shape (..., T, ...)
    start : boolean array, shape of v, optional
        Where to begin anew.

    Notes
    -----
    NumPy, torch and JAX have the plain one; the others, and all with `start`, go by doubling.
    """
    v, xp, kind = stop_gradient(v), namespace(v), kind_of(v)
    if v.shape[axis] == 0:
        return v
    if start is not None:
        if kind == "torch":
            from scanlib.backends import _torch_maximum

            return _torch_maximum.running_maximum(v, start, axis)
        return maximum_by_doubling(v, axis, start)
    match kind:
        case "torch":
            return v.cummax(axis).values
        case "jax":
            import jax

            return jax.lax.cummax(v, axis)
        case "numpy":
            return xp.maximum.accumulate(v, axis=axis)
    return maximum_by_doubling(v, axis, None)


def maximum_by_doubling(v: Array, axis: int, start: Array | None) -> Array:
    """`running_maximum` in log2 T passes: after the k-th, each element has seen the 2^k last ones."""
    xp, steps = namespace(v), v.shape[axis]
    reach = 1
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
