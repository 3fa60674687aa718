"""Where sequences start inside the time axis: `reset` or `offsets`, the last operand of a primitive that has either.

It is told from the others by its dtype, as these are numbers to compute with: booleans are a `reset`, which has the
axes of the result and extent 1 wherever it is repeated; integers are `offsets`, on one axis of their own. States then
have an axis of sequences in the place of time, and else none there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad

from scanlib.call import Shape, call_of

Array = jax.Array


def split(operands: Sequence[Any]) -> tuple[list[Any], Any]:
    """(all others, the one that says where sequences start, or None)"""
    *others, last = operands
    of = last.aval if ad.is_undefined_primal(last) else last
    if jnp.issubdtype(of.dtype, jnp.inexact):
        return list(operands), None
    return others, last


def resets(starts: Any) -> TypeGuard[Array]:
    return starts is not None and starts.dtype == bool


def packed(starts: Any) -> TypeGuard[Array]:
    return starts is not None and starts.dtype != bool


def role(starts: Any) -> str:
    return "offsets" if packed(starts) else "reset"


# ---- states


def state_shape(shape: Sequence[Any], axis: int, starts: Any) -> Shape:
    """The shape of a state of arrays of `shape`."""
    segments = starts.shape[0] - 1 if packed(starts) else None
    return call_of(tuple(shape), axis, segments).state_shape


def result_shape(operands: Sequence[Any], full: int, axis: int) -> Shape:
    """The shape of the result of a primitive whose first `full` operands have the axis of time.

    States and a reset may have a batch that no other operand has.
    """
    numbers, starts = split(operands)
    shapes = [tuple(value.shape) for value in numbers[:full]]
    if resets(starts):
        shapes.append(tuple(starts.shape))
    T = jnp.broadcast_shapes(*shapes)[axis]
    after = axis + packed(starts)
    for state in numbers[full:]:
        shapes.append((*state.shape[:axis], T, *state.shape[after:]))
    return jnp.broadcast_shapes(*shapes)


def along_time(state: Array, axis: int, starts: Any) -> Array:
    """A state with as many axes as all others."""
    return state if packed(starts) else lax.expand_dims(state, (axis,))


# ---- segments, by step and by number


def of_steps(offsets: Array, T: Any, axis: int, ndim: int, reverse: bool) -> tuple[Array, Array]:
    """Of each step: its segment's number, and, shaped to go with the arrays, whether the segment starts there."""
    t = lax.broadcasted_iota(offsets.dtype, (T,), 0)
    segment = jnp.searchsorted(offsets[1:], t, side="right")
    # Of the segments that begin at one step all but the last are empty.
    begin, _ = edges(offsets, reverse)
    return segment, _on_axis(t == jnp.take(begin, segment, mode="clip"), axis, ndim)


def edges(offsets: Array, reverse: bool) -> tuple[Array, Array]:
    """The first and the last step of each segment, in the direction of the recurrence; of no meaning in empty ones."""
    first, last = offsets[:-1], offsets[1:] - 1
    return (last, first) if reverse else (first, last)


def empty(offsets: Array, axis: int, ndim: int) -> Array:
    """Whether segments have no steps, shaped to go with states."""
    return _on_axis(offsets[1:] == offsets[:-1], axis, ndim)


def _on_axis(value: Array, axis: int, ndim: int) -> Array:
    return lax.expand_dims(value, [d for d in range(ndim) if d != axis])


def take(value: Array, index: Array, axis: int) -> Array:
    """Slices of `value` by number along `axis`, the nearest for a number that is none; repeated where it is."""
    return value if value.shape[axis] == 1 else jnp.take(value, index, axis, mode="clip")
