"""The recurrence in JAX operations alone, for platforms libscanlib has no kernels for.

Time is cut into about sqrt(T) chunks of as many steps. All chunks are reduced side by side to one affine map each, the
maps are chained, and every chunk is run again from the state it really begins with: 3 sqrt(T) small steps in place of
T, a program that compiles in no time, and within a chunk the arithmetic of the serial loop. The product of a chunk's
decays is kept in two parts, because what rounding each step loses can add up (cuda/linear.h says why, and how).

The maps multiply decays before any state is seen, which can overflow where the loop would not (Inf * 0), and can step
over an overflow the loop runs into. Either way some chunk begins or ends in a state that is not finite. The loop itself
is run then, so that NaN and Inf come out as it has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array

SHORT = 32  # not worth cutting


def scan(
    a: Array, x: Array, initial: Array | None, axis: int, reverse: bool
) -> tuple[Array, Array]:
    """`(h, final)`; operands of one dtype, shaped as the primitive's."""
    T = jnp.broadcast_shapes(a.shape, x.shape)[axis]
    a = jnp.broadcast_to(a, (*a.shape[:axis], T, *a.shape[axis + 1 :]))
    x = _alike(x, a)
    start = jnp.zeros((), x.dtype) if initial is None else lax.expand_dims(initial, (axis,))
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
    maps = _reduce(a_chunks, x_chunks, axis + 1, reverse)
    decay, lost, gain = (lax.squeeze(part, (axis + 1,)) for part in maps)
    after, last = _chain(decay, lost, gain, state, axis, reverse)
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


def _reduce(a: Array, x: Array, axis: int, reverse: bool) -> tuple[Array, Array, Array]:
    """The map (decay, lost, gain) that all steps along `axis` make together: h -> (decay + lost) * h + gain.

    Shapes as `a`'s with 1 along `axis`.
    """
    T = x.shape[axis]

    def step(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        decay, lost, gain = carry
        t = T - 1 - i if reverse else i
        now = _at(a, t, axis)
        product = now * decay
        lost = now * lost + _product_error(now, decay, product)
        return product, lost, now * gain + _at(x, t, axis)

    first = T - 1 if reverse else 0
    decay, gain = _at(a, first, axis), _at(x, first, axis)
    return lax.fori_loop(1, T, step, (decay, _alike(jnp.zeros((), a.dtype), decay), gain))


def _product_error(a: Array, b: Array, product: Array) -> Array:
    """`a * b - product`, where `product` is a * b rounded."""
    if jnp.iscomplexobj(a):
        return _complex_product_error(a, b, product)
    # Dekker (1971): products of halves of the digits are exact, and so is each difference, fused or not.
    a1, b1 = _leading_digits(a), _leading_digits(b)
    a2, b2 = a - a1, b - b1
    return a2 * b2 - (((product - a1 * b1) - a2 * b1) - a1 * b2)


def _complex_product_error(a: Array, b: Array, product: Array) -> Array:
    def difference(part: Array, *pairs: tuple[Array, Array]) -> Array:
        """The sum of the two products less `part`, their rounded sum."""
        (one, one_lost), (two, two_lost) = ((p * q, _product_error(p, q, p * q)) for p, q in pairs)
        total = one + two
        back = total - one
        lost = (one - (total - back)) + (two - back)  # of the sum (Knuth)
        return (total - part) + (lost + (one_lost + two_lost))

    re, im = (a.real, b.real), (-a.imag, b.imag)
    return lax.complex(
        difference(product.real, re, im),
        difference(product.imag, (a.real, b.imag), (a.imag, b.real)),
    )


def _leading_digits(value: Array) -> Array:
    """`value` with the last half of its digits zero."""
    mask = np.uint32(0xFFFFF000) if value.dtype == jnp.float32 else np.uint64(0xFFFFFFFFF8000000)
    bits = lax.bitcast_convert_type(value, mask.dtype)
    return lax.bitcast_convert_type(bits & mask, value.dtype)


def _chain(
    decay: Array, lost: Array, gain: Array, state: Array, axis: int, reverse: bool
) -> tuple[Array, Array]:
    """The states after each map in turn, and after the last."""
    return _loop(
        lambda t, state: (
            _at(decay, t, axis) * state + (_at(lost, t, axis) * state + _at(gain, t, axis))
        ),
        gain,
        state,
        axis,
        reverse,
    )


def _serial(a: Array, x: Array, state: Array, axis: int, reverse: bool) -> tuple[Array, Array]:
    """The states after each step, and after the last."""
    return _loop(
        lambda t, state: _at(a, t, axis) * state + _at(x, t, axis), x, state, axis, reverse
    )


def _loop(
    advance: Callable[[Array, Array], Array], like: Array, state: Array, axis: int, reverse: bool
) -> tuple[Array, Array]:
    """`state = advance(t, state)` for every t in turn: all states, shaped as `like`, and the last."""
    T = like.shape[axis]

    def step(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        h, state = carry
        t = T - 1 - i if reverse else i
        state = advance(t, state)
        return lax.dynamic_update_slice_in_dim(h, state, t, axis), state

    return lax.fori_loop(0, T, step, (like, state))


def _at(value: Array, t: Array | int, axis: int) -> Array:
    return lax.dynamic_slice_in_dim(value, t, 1, axis)
