"""Derivatives of the primitives: forward mode and transposes.

A derivative of `scan` is `tangent`, or `scan` itself where the decay does not change; its transpose is `backward`. The
derivatives of those two are taken of their formulas in `by_scan`, which hold `scan` again, so that every order follows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import ad

from scanlib.backends.jax import starts as of_starts
from scanlib.backends.jax.arithmetic import accumulator, cast, filler, state_filler, sum_to
from scanlib.backends.jax.by_scan import (
    backward_by_scan,
    split_states,
    tangent_by_scan,
)
from scanlib.backends.jax.primitives import (
    Array,
    backward,
    backward_p,
    bind,
    linear_map,
    present,
    scan_p,
    tangent_p,
)
from scanlib.call import reduced_axes

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
