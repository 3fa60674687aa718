"""Derivatives of the primitives: `tangent` and `backward` in terms of `scan`, forward mode and transposes.

A derivative of `scan` is `tangent`, or `scan` itself where the decay does not change; its transpose is `backward`. The
derivatives of those two are taken of their formulas here, which hold `scan` again, so that every order follows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad

from scanlib.backends.jax import starts as of_starts
from scanlib.backends.jax.primitives import (
    Array,
    accumulator,
    backward,
    backward_p,
    bind,
    cast,
    filler,
    linear_map,
    present,
    scan,
    scan_p,
    state_filler,
    sum_to,
    tangent_p,
)
from scanlib.call import reduced_axes

# ---- tangent and backward in terms of scan


def previous(
    h: Array, h0: Array | None, axis: int, reverse: bool, starts: Array | None = None
) -> Array:
    """The state before each step: `h` moved one step on; where a sequence starts, its `h0` or 0."""
    T = h.shape[axis]
    moved = _moved(h, axis, reverse)
    if h0 is not None:
        h0 = cast(h0, h.dtype)
    if of_starts.packed(starts):
        segment, begins = of_starts.of_steps(starts, T, axis, h.ndim, reverse)
        zero = jnp.zeros((), h.dtype)
        return jnp.where(begins, zero if h0 is None else of_starts.take(h0, segment, axis), moved)
    if h0 is not None:
        index = lax.broadcasted_iota(
            jnp.int32, tuple(T if d == axis else 1 for d in range(h.ndim)), axis
        )
        first = index == (T - 1 if reverse else 0)
        moved = jnp.where(first, lax.expand_dims(h0, (axis,)), moved)
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
    h0: Array | None,
    axis: int,
    reverse: bool,
    starts: Array | None,
) -> Array:
    """v_t h_{t-1}, where v is how a changes or what h_t counts for; both may not be finite where there is a reset."""
    before = previous(h, h0, axis, reverse, starts)
    return _cut(cast(v, h.dtype) * before, starts)


def tangent_by_scan(
    a: Array, h: Array, da: Array, dx: Array, *rest: Array, **params: Any
) -> list[Array]:
    """dh_t = a_t dh_{t-1} + (da_t h_{t-1} + dx_t)"""
    states, starts = of_starts.split((a, *rest))
    h0, dh0 = states[1:] or (None, None)
    wide = accumulator(params["dtype"])
    entering = times_previous(
        da,
        cast(h, wide),
        None if h0 is None else cast(h0, wide),
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
    h0, g_final = split_states(numbers[3:], has_h0)
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
    state = None if h0 is None else cast(h0, wide)
    ga = times_previous(G, h_wide, state, axis, reverse, starts).sum(summed, keepdims=True)
    out = [cast(ga, a.dtype), cast(G, x_dtype)]
    if h0 is not None:
        if T != 0:
            earliest = _into_states(earliest, a_wide, axis, reverse, starts)
        out.append(cast(earliest, h0.dtype))
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
    """(h0 or None, g_final or None)"""
    h0 = states[0] if has_h0 else None
    rest = states[1:] if has_h0 else states
    return h0, rest[0] if rest else None


# ---- forward mode


def _known(tangents: Sequence[Any]) -> bool:
    return all(isinstance(tangent, ad.Zero) for tangent in tangents)


def _instantiate(tangent: Any, primal: Array) -> Array:
    return jnp.zeros((1,) * primal.ndim, primal.dtype) if isinstance(tangent, ad.Zero) else tangent


def _jvp_through(
    formula: Callable[..., list[Array]], primals: Sequence[Array], tangents: Sequence[Any]
) -> list[Array]:
    """The tangents of `formula`, which is not differentiated in what does not change."""
    moving = [i for i, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero)]

    def of_moving(*values: Array) -> list[Array]:
        operands = list(primals)
        for i, value in zip(moving, values, strict=True):
            operands[i] = value
        return formula(*operands)

    return jax.jvp(of_moving, [primals[i] for i in moving], [tangents[i] for i in moving])[1]


def _scan_jvp(
    primals: Sequence[Array], tangents: Sequence[Any], **params: Any
) -> tuple[list[Array], list[Array]]:
    (a, _, *h0), starts = of_starts.split(primals)
    da, dx, *dh0 = tangents
    out = scan_p.bind(*primals, **params)
    states = (h0[0], dh0[0]) if h0 else (None, None)
    return out, linear_map(a, out[0], states[0], da, dx, states[1], out[0].shape, starts, **params)


def _tangent_jvp(
    primals: Sequence[Array], tangents: Sequence[Any], **params: Any
) -> tuple[list[Array], list[Array]]:
    (a, h, _, _, *states), starts = of_starts.split(primals)
    ta, th, tda, tdx, *tstates = tangents
    out = tangent_p.bind(*primals, **params)
    if _known((ta, th, *tstates[:1])):
        h0, tdh0 = (states[0], tstates[1]) if states else (None, None)
        return out, linear_map(a, h, h0, tda, tdx, tdh0, out[0].shape, starts, **params)
    return out, _jvp_through(functools.partial(tangent_by_scan, **params), primals, tangents)


def _backward_jvp(
    primals: Sequence[Array], tangents: Sequence[Any], **params: Any
) -> tuple[list[Array], list[Array]]:
    (a, h, g, *states), starts = of_starts.split(primals)
    ta, th, tg, *tstates = tangents[: 3 + len(states)]
    out = backward_p.bind(*primals, **params)
    th0, tg_final = split_states(tstates, params["has_h0"])
    if not _known((ta, th, *([] if th0 is None else [th0]))):
        return out, _jvp_through(functools.partial(backward_by_scan, **params), primals, tangents)
    h0, g_final = split_states(states, params["has_h0"])
    tg = filler(out[1].shape, (a, h), g.dtype) if isinstance(tg, ad.Zero) else tg
    moved = [] if g_final is None else [_instantiate(tg_final, g_final)]
    return out, bind(backward_p, a, h, tg, *present(h0), *moved, *present(starts), **params)


# ---- transposes


def _shape(cotangent: Any) -> Any:
    of: Any = cotangent.aval if isinstance(cotangent, ad.Zero) else cotangent
    return of.shape


def _transpose_linear_map(
    cotangents: Sequence[Any],
    a: Array,
    h: Any,
    h0: Any,
    da: Any,
    dx: Any,
    dh0: Any,
    starts: Any,
    **params: Any,
) -> tuple[Any, Any, Any]:
    """Cotangents of da, dx, dh0, each None where that was not asked for (only an undefined primal is)."""
    shape = _shape(cotangents[0])
    dtype, axis = params["dtype"], params["axis"]
    wanted_a, wanted_x, wanted_h0 = (ad.is_undefined_primal(value) for value in (da, dx, dh0))
    if h is None:  # without da nothing depends on h
        h = jnp.zeros((1,) * len(shape), dtype)
    g = filler(shape, (a, h), dtype) if isinstance(cotangents[0], ad.Zero) else cotangents[0]
    g_final = cotangents[1] if params["final"] and not isinstance(cotangents[1], ad.Zero) else None
    if dh0 is not None:
        of: Any = dh0.aval if wanted_h0 else dh0
        h0 = state_filler(shape, of.dtype, starts) if h0 is None else h0
        if reduced_axes(of.shape, of_starts.state_shape(shape, axis, starts)):
            h0 = cast(
                h0, accumulator(h0.dtype)
            )  # the terms of the sum, which are of this dtype, are not rounded
    ga, gx, *gh0 = backward(
        a,
        h,
        g,
        h0,
        g_final,
        starts,
        axis=axis,
        reverse=params["reverse"],
        x_dtype=(dx.aval if wanted_x else dx).dtype,
        # Nobody reads ga where it is not wanted: as one number it costs no memory traffic.
        summed=reduced_axes(da.aval.shape, shape) if wanted_a else tuple(range(len(shape))),
        native=params["native"],
    )
    return (
        ga if wanted_a else None,
        cast(sum_to(gx, dx.aval.shape), dx.aval.dtype) if wanted_x else None,
        cast(sum_to(gh0[0], dh0.aval.shape), dh0.aval.dtype) if wanted_h0 else None,
    )


def _scan_transpose(
    cotangents: Sequence[Any], a: Any, x: Any, *rest: Any, **params: Any
) -> list[Any]:
    if ad.is_undefined_primal(a):
        raise NotImplementedError(
            "The linear recurrence is linear in x and h0, not in a: it has no transpose there."
        )
    (_, *h0), starts = of_starts.split((x, *rest))
    _, gx, gh0 = _transpose_linear_map(
        cotangents, a, None, None, None, x, h0[0] if h0 else None, starts, **params
    )
    return [None, gx, *([gh0] if h0 else []), *_no_cotangent(starts)]


def _tangent_transpose(
    cotangents: Sequence[Any], a: Array, h: Array, da: Any, dx: Any, *rest: Any, **params: Any
) -> list[Any]:
    (_, *states), starts = of_starts.split((dx, *rest))
    h0, dh0 = states or (None, None)
    ga, gx, gh0 = _transpose_linear_map(cotangents, a, h, h0, da, dx, dh0, starts, **params)
    return [None, None, ga, gx, *([None, gh0] if states else []), *_no_cotangent(starts)]


def _backward_transpose(
    cotangents: Sequence[Any], a: Array, h: Array, g: Any, *rest: Any, **params: Any
) -> list[Any]:
    cga, cgx, *cgh0 = cotangents
    (_, *states), starts = of_starts.split((g, *rest))
    h0, g_final = split_states(states, params["has_h0"])
    wanted, wanted_final = ad.is_undefined_primal(g), ad.is_undefined_primal(g_final)
    shape = _shape(cgx)
    out = linear_map(
        a,
        h,
        h0,
        cga,
        cgx,
        cgh0[0] if cgh0 else None,
        shape,
        starts,
        axis=params["axis"],
        reverse=params["reverse"],
        final=wanted_final,
        dtype=(g.aval if wanted else g).dtype,
        native=params["native"],
    )
    ct_g = cast(sum_to(out[0], g.aval.shape), g.aval.dtype) if wanted else None
    ct_final: list[Any] = [] if g_final is None else [None]
    if wanted_final:
        ct_final = [cast(sum_to(out[1], g_final.aval.shape), g_final.aval.dtype)]
    return [None, None, ct_g, *([] if h0 is None else [None]), *ct_final, *_no_cotangent(starts)]


def _no_cotangent(starts: Any) -> list[None]:
    return [None for _ in present(starts)]


ad.primitive_jvps[scan_p] = _scan_jvp
ad.primitive_jvps[tangent_p] = _tangent_jvp
ad.primitive_jvps[backward_p] = _backward_jvp
ad.primitive_transposes[scan_p] = _scan_transpose
ad.primitive_transposes[tangent_p] = _tangent_transpose
ad.primitive_transposes[backward_p] = _backward_transpose
