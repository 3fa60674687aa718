"""The recurrence in JAX operations alone, for platforms libscanlib has no kernels for.

Time is cut into about sqrt(T) chunks of as many steps. All chunks are reduced side by side to one affine map each, the
maps are chained, and every chunk is run again from the state it really begins with: 3 sqrt(T) small steps in place of
T, a program that compiles in no time, and within a chunk the arithmetic of the serial loop. The product of a chunk's
decays is kept in two parts, because what rounding each step loses can add up (cuda/linear.h says why, and how).

Where a sequence starts a step is x alone, by choice, and the map of its chunk forgets what enters it; the states of
packed sequences go into the x of their first steps. What is not finite in one sequence so never meets another.

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

from scanlib.backends.jax import starts as of_starts

Array = jax.Array
Map = tuple[Array, Array, Array, Array | None]

SHORT = 32  # not worth cutting


def scan(
    a: Array,
    x: Array,
    initial: Array | None,
    axis: int,
    reverse: bool,
    starts: Array | None = None,
) -> tuple[Array, Array]:
    """`(h, final)`; operands of one dtype, but `starts`, shaped as the primitive's."""
    if of_starts.packed(starts):
        return _packed(a, x, initial, axis, reverse, starts)
    T = jnp.broadcast_shapes(a.shape, x.shape)[axis]
    a = jnp.broadcast_to(a, (*a.shape[:axis], T, *a.shape[axis + 1 :]))
    x = _alike(x, a)
    if starts is not None:
        starts = jnp.broadcast_to(starts, (*starts.shape[:axis], T, *starts.shape[axis + 1 :]))
        x = _alike(x, starts.astype(x.dtype))
    start = jnp.zeros((), x.dtype)
    if initial is not None:
        start = lax.expand_dims(initial, (axis,))
        x = _alike(x, start)  # which may have a batch that no other has
    if isinstance(T, int) and T == 0:
        one_step = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
        return x, lax.squeeze(jnp.broadcast_to(start, one_step), (axis,))
    state = _alike(start, _at(x, 0, axis))
    # An extent that is known only at run time cannot be cut up.
    run = _in_chunks if isinstance(T, int) and T > SHORT else _serial
    h, state = run(a, x, starts, state, axis, reverse)
    return h, lax.squeeze(state, (axis,))


def _packed(
    a: Array, x: Array, initial: Array | None, axis: int, reverse: bool, offsets: Array
) -> tuple[Array, Array]:
    """A segment's state goes into the x of its first step, which is then one of a reset."""
    T = jnp.broadcast_shapes(a.shape, x.shape)[axis]
    segment, begins = of_starts.of_steps(offsets, T, axis, x.ndim, reverse)
    before = jnp.zeros((), x.dtype) if initial is None else of_starts.take(initial, segment, axis)
    x = jnp.where(begins, a * before + x, x)  # of nothing too: a may be infinite
    h, _ = scan(a, x, None, axis, reverse, begins)
    _, end = of_starts.edges(offsets, reverse)
    none = jnp.zeros((), h.dtype) if initial is None else initial
    shape = of_starts.state_shape(h.shape, axis, offsets)
    if T == 0:
        return h, jnp.broadcast_to(none, shape)
    last = of_starts.take(h, end, axis)
    final = jnp.where(of_starts.empty(offsets, axis, h.ndim), none, last)
    return h, jnp.broadcast_to(final, shape)


def _alike(value: Array, other: Array) -> Array:
    """`value` in the shape of both, sharded and varying over a mesh as both are; compiled to nothing."""
    return jnp.where(False, other, value)


def _in_chunks(
    a: Array, x: Array, starts: Array | None, state: Array, axis: int, reverse: bool
) -> tuple[Array, Array]:
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
    cuts = None if starts is None else chunks(starts)
    maps = _reduce(a_chunks, x_chunks, cuts, axis + 1, reverse)
    decay, lost, gain, forgets = jax.tree.map(lambda part: lax.squeeze(part, (axis + 1,)), maps)
    after, last = _chain(decay, lost, gain, forgets, state, axis, reverse)
    if reverse:
        before = lax.concatenate([lax.slice_in_dim(after, 1, count, axis=axis), state], axis)
    else:
        before = lax.concatenate([state, lax.slice_in_dim(after, 0, count - 1, axis=axis)], axis)
    entering = lax.expand_dims(before, (axis + 1,))
    h, ends = _serial(a_chunks, x_chunks, cuts, entering, axis + 1, reverse)

    def finish() -> tuple[Array, Array]:
        main = h.reshape(*x.shape[:axis], count * steps, *x.shape[axis + 1 :])
        if rest == 0:
            return main, last
        side = slice(0, rest) if reverse else slice(T - rest, T)
        left = (slice(None),) * axis + (side,)
        cut = None if starts is None else starts[left]
        tail, final = _serial(a[left], x[left], cut, last, axis, reverse)
        return lax.concatenate([tail, main] if reverse else [main, tail], axis), final

    sound = jnp.isfinite(after).all() & jnp.isfinite(ends).all()
    return lax.cond(sound, finish, lambda: _serial(a, x, starts, state, axis, reverse))


def _reduce(a: Array, x: Array, starts: Array | None, axis: int, reverse: bool) -> Map:
    """The map (decay, lost, gain, forgets) that all steps along `axis` make together: h -> (decay + lost) * h + gain.

    Or to gain alone where it forgets h, because a sequence starts: no decay says that of an h that is not finite.
    Shapes as `a`'s with 1 along `axis`.
    """
    T = x.shape[axis]

    def step(i: Array, carry: Map) -> Map:
        decay, lost, gain, forgets = carry
        t = T - 1 - i if reverse else i
        now = _at(a, t, axis)
        product = now * decay
        lost = now * lost + _product_error(now, decay, product)
        gain = _chosen(starts, x, now * gain + _at(x, t, axis), t, axis)
        if starts is not None and forgets is not None:
            forgets |= _at(starts, t, axis)
        return product, lost, gain, forgets

    first = T - 1 if reverse else 0
    decay, gain = _at(a, first, axis), _at(x, first, axis)
    forgets = None if starts is None else _at(starts, first, axis)
    return lax.fori_loop(1, T, step, (decay, _alike(jnp.zeros((), a.dtype), decay), gain, forgets))


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
    decay: Array,
    lost: Array,
    gain: Array,
    forgets: Array | None,
    state: Array,
    axis: int,
    reverse: bool,
) -> tuple[Array, Array]:
    """The states after each map in turn, and after the last."""

    def advance(t: Array, state: Array) -> Array:
        after = _at(decay, t, axis) * state + (_at(lost, t, axis) * state + _at(gain, t, axis))
        return _chosen(forgets, gain, after, t, axis)

    return _loop(advance, gain, state, axis, reverse)


def _serial(
    a: Array, x: Array, starts: Array | None, state: Array, axis: int, reverse: bool
) -> tuple[Array, Array]:
    """The states after each step, and after the last."""

    def advance(t: Array, state: Array) -> Array:
        after = _at(a, t, axis) * state + _at(x, t, axis)
        return _chosen(starts, x, after, t, axis)

    return _loop(advance, x, state, axis, reverse)


def _chosen(starts: Array | None, alone: Array, after: Array, t: Array, axis: int) -> Array:
    """`after`, and where a sequence starts at `t` what is there `alone`, whatever came before."""
    if starts is None:
        return after
    return jnp.where(_at(starts, t, axis), _at(alone, t, axis), after)


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
