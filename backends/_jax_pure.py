"""The recurrence in JAX operations alone, for platforms libscanlib has no kernels for.

Time is cut into about sqrt(T) chunks of as many steps. All chunks are reduced side by side to one affine map each, the
maps are chained, and every chunk is run again from the state it really begins with: 3 sqrt(T) small steps in place of
T, a program that compiles in no time, and within a chunk the arithmetic of the serial loop.

The maps multiply decays before any state is seen, which can overflow where the loop would not (Inf * 0), and can step
over an overflow the loop runs into. Either way some chunk begins or ends in a state that is not finite. The loop itself
is run then, so that NaN and Inf come out as it has them.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

SHORT = 32  # not worth cutting


def scan(a: Array, x: Array, h0: Array | None, axis: int, reverse: bool) -> tuple[Array, Array]:
    """`(h, final)`; operands of one dtype, shaped as the primitive's."""
    T = jnp.broadcast_shapes(a.shape, x.shape)[axis]
    a = jnp.broadcast_to(a, (*a.shape[:axis], T, *a.shape[axis + 1 :]))
    x = _alike(x, a)
    start = jnp.zeros((), x.dtype) if h0 is None else lax.expand_dims(h0, (axis,))
    if isinstance(T, int) and T == 0:
        one_step = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
        return x, lax.squeeze(jnp.broadcast_to(start, one_step), (axis,))
    state = _alike(start, _at(x, 0, axis))
    # An extent that is known only at run time cannot be cut up.
    run = _in_chunks if isinstance(T, int) and T > SHORT else _serial
    h, state = run(a, x, state, axis, reverse)
    return h, lax.squeeze(state, (axis,))


def _alike(value: Array, other: Array) -> Array:
    """`value` in the shape of both, sharded and varying over a mesh as both are; compiled to nothing."""
    return jnp.where(False, other, value)


def _in_chunks(a: Array, x: Array, state: Array, axis: int, reverse: bool) -> tuple[Array, Array]:
    T = x.shape[axis]
    steps = math.isqrt(T)
    count, rest = divmod(T, steps)
    begin = (
        rest if reverse else 0
    )  # the steps that are left over come last in the direction of the recurrence

    def chunks(value: Array) -> Array:
        value = lax.slice_in_dim(value, begin, begin + count * steps, axis=axis)
        return value.reshape(*value.shape[:axis], count, steps, *value.shape[axis + 1 :])

    a_chunks, x_chunks = chunks(a), chunks(x)
    decay, gain = _reduce(a_chunks, x_chunks, axis + 1, reverse)
    after, last = _serial(
        lax.squeeze(decay, (axis + 1,)), lax.squeeze(gain, (axis + 1,)), state, axis, reverse
    )
    if reverse:
        before = lax.concatenate([lax.slice_in_dim(after, 1, count, axis=axis), state], axis)
    else:
        before = lax.concatenate([state, lax.slice_in_dim(after, 0, count - 1, axis=axis)], axis)
    h, ends = _serial(a_chunks, x_chunks, lax.expand_dims(before, (axis + 1,)), axis + 1, reverse)

    def finish() -> tuple[Array, Array]:
        main = h.reshape(*x.shape[:axis], count * steps, *x.shape[axis + 1 :])
        if rest == 0:
            return main, last
        side = slice(0, rest) if reverse else slice(T - rest, T)
        left = (slice(None),) * axis + (side,)
        tail, final = _serial(a[left], x[left], last, axis, reverse)
        return lax.concatenate([tail, main] if reverse else [main, tail], axis), final

    sound = jnp.isfinite(after).all() & jnp.isfinite(ends).all()
    return lax.cond(sound, finish, lambda: _serial(a, x, state, axis, reverse))


def _reduce(a: Array, x: Array, axis: int, reverse: bool) -> tuple[Array, Array]:
    """The map (decay, gain) that all steps along `axis` make together, for each sequence."""
    T = x.shape[axis]

    def step(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        decay, gain = carry
        t = T - 1 - i if reverse else i
        now = _at(a, t, axis)
        return now * decay, now * gain + _at(x, t, axis)

    first = T - 1 if reverse else 0
    return lax.fori_loop(1, T, step, (_at(a, first, axis), _at(x, first, axis)))


def _serial(a: Array, x: Array, state: Array, axis: int, reverse: bool) -> tuple[Array, Array]:
    T = x.shape[axis]

    def step(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        h, state = carry
        t = T - 1 - i if reverse else i
        state = _at(a, t, axis) * state + _at(x, t, axis)
        return lax.dynamic_update_slice_in_dim(h, state, t, axis), state

    return lax.fori_loop(0, T, step, (x, state))


def _at(value: Array, t: Array | int, axis: int) -> Array:
    return lax.dynamic_slice_in_dim(value, t, 1, axis)
