"""`tangent` and `backward` in terms of `scan`: for derivatives of theirs, and for platforms without a kernel."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from scanlib.backends.jax import starts as of_starts
from scanlib.backends.jax.arithmetic import accumulator, cast
from scanlib.backends.jax.primitives import Array, scan


def previous(
    h: Array, initial: Array | None, axis: int, reverse: bool, starts: Array | None = None
) -> Array:
    """The state before each step: `h` moved one step on; where a sequence starts, its initial state or 0."""
    T = h.shape[axis]
    moved = _moved(h, axis, reverse)
    if initial is not None:
        initial = cast(initial, h.dtype)
    if of_starts.packed(starts):
        segment, begins = of_starts.of_steps(starts, T, axis, h.ndim, reverse)
        zero = jnp.zeros((), h.dtype)
        return jnp.where(
            begins, zero if initial is None else of_starts.take(initial, segment, axis), moved
        )
    if initial is not None:
        index = lax.broadcasted_iota(
            jnp.int32, tuple(T if d == axis else 1 for d in range(h.ndim)), axis
        )
        first = index == (T - 1 if reverse else 0)
        moved = jnp.where(first, lax.expand_dims(initial, (axis,)), moved)
    return _cut(moved, starts)


def _moved(h: Array, axis: int, reverse: bool) -> Array:
    """`h` moved one step on in the direction of the recurrence; 0 at the first."""
    step = (-1, 1, 0) if reverse else (1, -1, 0)
    zero = jnp.zeros((), h.dtype)
    return lax.pad(h, zero, [step if d == axis else (0, 0, 0) for d in range(h.ndim)])


def _cut(value: Array, starts: Array | None) -> Array:
    """`value`, and 0 where there is a reset: a choice, as the product with 0 of what is not finite is none."""
    if starts is None or of_starts.packed(starts):
        return value
    return jnp.where(starts, jnp.zeros((), value.dtype), value)


def times_previous(
    v: Array,
    h: Array,
    initial: Array | None,
    axis: int,
    reverse: bool,
    starts: Array | None,
) -> Array:
    """v_t h_{t-1}, where v is how a changes or what h_t counts for; both may not be finite where there is a reset."""
    before = previous(h, initial, axis, reverse, starts)
    return _cut(cast(v, h.dtype) * before, starts)


def tangent_by_scan(
    a: Array, h: Array, da: Array, dx: Array, *rest: Array, **params: Any
) -> list[Array]:
    """dh_t = a_t dh_{t-1} + (da_t h_{t-1} + dx_t)"""
    states, starts = of_starts.split((a, *rest))
    initial, dh0 = states[1:] or (None, None)
    wide = accumulator(params["dtype"])
    entering = times_previous(
        da,
        cast(h, wide),
        None if initial is None else cast(initial, wide),
        params["axis"],
        params["reverse"],
        starts,
    )
    return scan(a, entering + cast(dx, wide), dh0, starts, **params)


def backward_by_scan(
    a: Array,
    h: Array,
    g: Array,
    *rest: Array,
    axis: int,
    reverse: bool,
    x_dtype: Any,
    summed: tuple[int, ...],
    has_h0: bool,
    native: bool,
) -> list[Array]:
    """G_t = g_t + a_{t+1} G_{t+1} from G_T = g_final on; gx = G, ga_t = G_t h_{t-1}, gh0 = a_0 G_0

    where a sequence starts at t + 1 nothing of it comes back to t, and of packed ones each has an end of its own.
    """
    numbers, starts = of_starts.split((a, h, g, *rest))
    initial, g_final = split_states(numbers[3:], has_h0)
    wide = accumulator(functools.reduce(jnp.promote_types, [value.dtype for value in numbers]))
    reset = starts if of_starts.resets(starts) else None
    shape = of_starts.result_shape((a, h, g, *rest), 3, axis)
    T = shape[axis]

    def over_time(value: Array) -> Array:
        return jnp.broadcast_to(value, (*value.shape[:axis], T, *value.shape[axis + 1 :]))

    # Cast first: what is repeated is summed in the transpose of this.
    a_wide, h_wide = (over_time(cast(v, wide)) for v in (a, h))
    back = starts if reset is None else _moved(over_time(reset), axis, not reverse)
    ones = (1,) * len(of_starts.state_shape(shape, axis, starts))
    # The last step takes g_final as it is.
    after = previous(a_wide, jnp.ones(ones, wide), axis, not reverse, back)
    g_wide = jnp.broadcast_to(cast(g, wide), shape)
    full = scan(
        after,
        g_wide,
        g_final,
        back,
        axis=axis,
        reverse=not reverse,
        final=True,
        dtype=wide,
        native=native,
    )
    G, earliest = full
    state = None if initial is None else cast(initial, wide)
    ga = times_previous(G, h_wide, state, axis, reverse, starts).sum(summed, keepdims=True)
    out = [cast(ga, a.dtype), cast(G, x_dtype)]
    if initial is not None:
        if T != 0:
            earliest = _into_states(earliest, a_wide, axis, reverse, starts)
        out.append(cast(earliest, initial.dtype))
    return out


def _into_states(g: Array, a: Array, axis: int, reverse: bool, starts: Array | None) -> Array:
    """What the states before the first steps count for, where `g` is what those after them do."""
    T = a.shape[axis]
    if of_starts.packed(starts):
        begin, _ = of_starts.edges(starts, reverse)
        empty = of_starts.empty(starts, axis, a.ndim)
        return jnp.where(empty, g, of_starts.take(a, begin, axis) * g)
    first = T - 1 if reverse else 0
    g = lax.index_in_dim(a, first, axis, keepdims=False) * g
    if starts is None:
        return g
    at = first if starts.shape[axis] != 1 else 0
    return _cut(g, lax.index_in_dim(starts, at, axis, keepdims=False))


def split_states(states: Sequence[Any], has_h0: bool) -> tuple[Any, Any]:
    """(the initial state or None, g_final or None)"""
    initial = states[0] if has_h0 else None
    rest = states[1:] if has_h0 else states
    return initial, rest[0] if rest else None
