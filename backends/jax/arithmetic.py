"""What primitives and their derivatives compute with: dtypes, sums, zeros that broadcast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from scanlib.backends.jax import starts as of_starts
from scanlib.call import reduced_axes

Array = jax.Array


def accumulator(dtype: Any) -> Any:
    """The dtype a recurrence of `dtype` is computed in."""
    return jnp.dtype(jnp.float32) if jnp.dtype(dtype).itemsize == 2 else jnp.dtype(dtype)


def cast(value: Array, dtype: Any) -> Array:
    """`value` in `dtype`; the real part where that is real."""
    if jnp.iscomplexobj(value) and not jnp.issubdtype(dtype, jnp.complexfloating):
        value = lax.real(value)
    return lax.convert_element_type(value, dtype)


def sum_to(value: Array, shape: Sequence[Any]) -> Array:
    """Sum over the axes along which an operand of `shape` was repeated, in its accumulator; of that dtype then."""
    axes = reduced_axes(tuple(shape), value.shape)
    return cast(value, accumulator(value.dtype)).sum(axes, keepdims=True) if axes else value


def filler(full: Sequence[Any], others: Sequence[Array], dtype: Any) -> Array:
    """Zeros that broadcast: extent 1 wherever another operand has the full extent already."""
    return jnp.zeros(
        tuple(1 if any(other.shape[d] == n for other in others) else n for d, n in enumerate(full)),
        dtype,
    )


def state_filler(full: Sequence[Any], dtype: Any, starts: Any) -> Array:
    return jnp.zeros((1,) * (len(full) - (not of_starts.packed(starts))), dtype)
