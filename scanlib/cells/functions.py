"""Functions of arrays that cells are written in: those of the array's own library, and what follows from them.

What a library does in its own way is in its adapter (`scanlib.backends.Functions`); no library is named here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scanlib.call import Shape
from scanlib.dispatch import functions_for

Array = Any


# ---- the library's own; `scanlib.backends.array_functions` says what each is


def namespace(array: Array) -> Any:
    return functions_for(array).namespace(array)


def device_of(v: Array) -> Any:
    return functions_for(v).device_of(v)


def sigmoid(v: Array) -> Array:
    return functions_for(v).sigmoid(v)


def softplus(v: Array) -> Array:
    return functions_for(v).softplus(v)


def silu(v: Array) -> Array:
    return functions_for(v).silu(v)


def elu(v: Array) -> Array:
    return functions_for(v).elu(v)


def identity(v: Array) -> Array:
    return v


def tanh(v: Array) -> Array:
    return functions_for(v).tanh(v)


def positive(v: Array) -> Array:
    return functions_for(v).positive(v)


def convex(decay: Array, candidate: Array) -> Array:
    return functions_for(decay).convex(decay, candidate)


def sqrt_capped(v: Array) -> Array:
    return functions_for(v).sqrt_capped(v)


def stop_gradient(v: Array) -> Array:
    return functions_for(v).stop_gradient(v)


def complex_of(real: Array, imaginary: Array) -> Array:
    return functions_for(real).complex_of(real, imaginary)


def parts(v: Array, *sizes: int) -> list[Array]:
    return functions_for(v).parts(v, *sizes)


def project(x: Array, weight: Array, bias: Array | None = None) -> Array:
    return functions_for(x).project(x, weight, bias)


def project_pair(s: Array, x: Array, weight: Array, bias: Array | None = None) -> Array:
    return functions_for(x).project_pair(s, x, weight, bias)


def project_to_complex(x: Array, weight: Array) -> Array:
    return functions_for(x).project_to_complex(x, weight)


def project_to_real(h: Array, weight: Array) -> Array:
    return functions_for(h).project_to_real(h, weight)


def part(v: Array, axis: int, start: int, stop: int) -> Array:
    return functions_for(v).part(v, axis, start, stop)


def at(v: Array, axis: int, t: int) -> Array:
    return functions_for(v).at(v, axis, t)


def running_maximum(v: Array, axis: int, start: Array | None = None) -> Array:
    return functions_for(v).running_maximum(v, axis, start)


#: What a cell's option `activation` may be.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "identity": identity,
    "tanh": tanh,
    "elu": elu,
    "silu": silu,
    "positive": positive,
}


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


def zeros(shape: Shape, like: Array, dtype: Any = None) -> Array:
    """Zeros on the device of `like`, in its dtype unless told otherwise."""
    return namespace(like).zeros(shape, dtype=dtype or like.dtype, device=device_of(like))


# ---- features


def split(v: Array, count: int) -> list[Array]:
    """`count` blocks of equal size along the last axis."""
    return parts(v, *[v.shape[-1] // count] * count)


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


def within(v: Array, high: int) -> Array:
    """Whole numbers v, those below 0 as 0 and those above `high` as that.

    `high` may be a symbol of torch.compile, of which array-api-compat's `clip` asks whether it is NaN.
    """
    xp = namespace(v)
    nothing = xp.zeros_like(v)
    return xp.minimum(xp.maximum(v, nothing), nothing + high)
