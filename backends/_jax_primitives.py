"""The recurrence as three JAX primitives, with every rule JAX asks for; nothing here knows how they run.

    scan      (a, x, [h0])                  -> h, [final]
    tangent   (a, h, da, dx, [h0, dh0])     -> dh, [dfinal]             linear in da, dx, dh0
    backward  (a, h, g, [h0], [g_final])    -> ga, gx, [gh0]            linear in g, g_final; the fused kernel

`tangent` is what `scan` differentiates to and `backward` is its transpose, so a gradient is one scan and one backward.
`tangent` and `backward` are also written in terms of `scan` (`tangent_by_scan`, `backward_by_scan`): their own
derivatives come from there, which makes gradients of every order and in every mode exact.

All operands have the same number of axes (states one fewer) and extent 1 wherever they are repeated, so a broadcast
`a` is never stored. `filler` makes zeros of that kind for what a derivative does not depend on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from scanlib.errors import DeviceError

Array = jax.Array
Params = dict[str, Any]


def accumulator(dtype: Any) -> Any:
    """The dtype a recurrence of `dtype` is computed in."""
    return jnp.dtype(jnp.float32) if jnp.dtype(dtype).itemsize == 2 else jnp.dtype(dtype)


def cast(value: Array, dtype: Any) -> Array:
    """`value` in `dtype`; the real part where that is real."""
    if jnp.iscomplexobj(value) and not jnp.issubdtype(dtype, jnp.complexfloating):
        value = lax.real(value)
    return lax.convert_element_type(value, dtype)


def repeated_axes(shape: Sequence[Any], full: Sequence[Any]) -> tuple[int, ...]:
    """The axes along which an operand of `shape` is repeated to `full`, which has as many."""
    return tuple(d for d, (m, n) in enumerate(zip(shape, full, strict=True)) if m == 1 and n != 1)


def sum_to(value: Array, shape: Sequence[Any]) -> Array:
    """Sum over the axes along which an operand of `shape` was repeated."""
    axes = repeated_axes(shape, value.shape)
    return value.sum(axes, keepdims=True) if axes else value


def filler(full: Sequence[Any], others: Sequence[Array], dtype: Any) -> Array:
    """Zeros that broadcast: extent 1 wherever another operand has the full extent already."""
    return jnp.zeros(
        tuple(1 if any(other.shape[d] == n for other in others) else n for d, n in enumerate(full)),
        dtype,
    )


def state_filler(full: Sequence[Any], dtype: Any) -> Array:
    return jnp.zeros((1,) * (len(full) - 1), dtype)


# ---- the primitives, bound


def scan(
    a: Array,
    x: Array,
    h0: Array | None,
    *,
    axis: int,
    reverse: bool,
    final: bool,
    dtype: Any,
    native: bool,
) -> list[Array]:
    """`[h]` or `[h, final]` in `dtype`; `native=False` takes the pure-JAX path on every platform."""
    states = () if h0 is None else (h0,)
    return _bind(
        scan_p, a, x, *states, axis=axis, reverse=reverse, final=final, dtype=dtype, native=native
    )


def backward(
    a: Array,
    h: Array,
    g: Array,
    h0: Array | None,
    g_final: Array | None,
    *,
    axis: int,
    reverse: bool,
    x_dtype: Any,
    summed: tuple[int, ...],
    native: bool,
) -> list[Array]:
    """`[ga, gx]` or, with h0, `[ga, gx, gh0]`; `ga` is summed along the axes `summed`, the others are full size."""
    states = [state for state in (h0, g_final) if state is not None]
    return _bind(
        backward_p,
        a,
        h,
        g,
        *states,
        axis=axis,
        reverse=reverse,
        x_dtype=x_dtype,
        summed=summed,
        has_h0=h0 is not None,
        native=native,
    )


def linear_map(
    a: Array,
    h: Array | None,
    h0: Array | None,
    da: Any,
    dx: Any,
    dh0: Any,
    shape: Sequence[Any],
    **params: Any,
) -> list[Array]:
    """How `[h, final]` changes with the inputs; da, dx, dh0 may be `ad.Zero`, h is needed where da is not."""
    dtype = params["dtype"]
    if isinstance(da, ad.Zero):
        dx = filler(shape, (a,), dtype) if isinstance(dx, ad.Zero) else dx
        return scan(a, dx, None if dh0 is None or isinstance(dh0, ad.Zero) else dh0, **params)
    assert h is not None
    dx = filler(shape, (a, h), dtype) if isinstance(dx, ad.Zero) else dx
    states: tuple[Array, ...] = ()
    if h0 is not None:
        states = (h0, state_filler(shape, dtype) if isinstance(dh0, ad.Zero) else dh0)
    return _bind(tangent_p, a, h, da, dx, *states, **params)


def _bind(primitive: Primitive, *operands: Array, **params: Any) -> list[Array]:
    """Bind operands that vary alike over the manual axes of a `shard_map`, as JAX asks of every primitive."""
    return primitive.bind(*_vary_alike(operands), **params)


def _vary_alike(operands: tuple[Array, ...]) -> tuple[Array, ...]:
    varying = [_varying_axes(operand) for operand in operands]
    union = frozenset().union(*varying)
    if not union:
        return operands
    return tuple(
        _make_vary(operand, tuple(sorted(union - axes))) if axes != union else operand
        for operand, axes in zip(operands, varying, strict=True)
    )


def _varying_axes(operand: Array) -> frozenset[str]:
    kind = jax.typeof(operand)
    manual = getattr(kind, "manual_axis_type", None)  # jax 0.10; before it was `vma`
    return frozenset(getattr(kind, "vma", ()) if manual is None else manual.varying)


def _make_vary(operand: Array, axes: tuple[str, ...]) -> Array:
    if hasattr(lax, "pcast"):
        return lax.pcast(operand, axes, to="varying")
    return lax.pvary(operand, axes)  # before jax 0.8


# ---- tangent and backward in terms of scan


def previous(h: Array, h0: Array | None, axis: int, reverse: bool) -> Array:
    """The state before each step: `h` moved one step on, beginning with `h0`."""
    step = (-1, 1, 0) if reverse else (1, -1, 0)
    moved = lax.pad(
        h, jnp.zeros((), h.dtype), [step if d == axis else (0, 0, 0) for d in range(h.ndim)]
    )
    if h0 is None:
        return moved
    T = h.shape[axis]
    index = lax.broadcasted_iota(
        jnp.int32, tuple(T if d == axis else 1 for d in range(h.ndim)), axis
    )
    return jnp.where(
        index == (T - 1 if reverse else 0), lax.expand_dims(cast(h0, h.dtype), (axis,)), moved
    )


def tangent_by_scan(
    a: Array,
    h: Array,
    da: Array,
    dx: Array,
    h0: Array | None = None,
    dh0: Array | None = None,
    **params: Any,
) -> list[Array]:
    """dh_t = a_t dh_{t-1} + (da_t h_{t-1} + dx_t)"""
    wide = accumulator(params["dtype"])
    before = previous(
        cast(h, wide), None if h0 is None else cast(h0, wide), params["axis"], params["reverse"]
    )
    return scan(a, cast(da, wide) * before + cast(dx, wide), dh0, **params)


def backward_by_scan(
    a: Array,
    h: Array,
    g: Array,
    *states: Array,
    axis: int,
    reverse: bool,
    x_dtype: Any,
    summed: tuple[int, ...],
    has_h0: bool,
    native: bool,
) -> list[Array]:
    """G_t = g_t + a_{t+1} G_{t+1} from G_T = g_final on; gx = G, ga_t = G_t h_{t-1}, gh0 = a_0 G_0"""
    h0, g_final = _backward_states(states, has_h0)
    wide = accumulator(
        functools.reduce(jnp.promote_types, [value.dtype for value in (a, h, g, *states)])
    )
    shape = jnp.broadcast_shapes(a.shape, h.shape, g.shape)
    T = shape[axis]
    a_wide, h_wide = (
        cast(jnp.broadcast_to(v, (*v.shape[:axis], T, *v.shape[axis + 1 :])), wide) for v in (a, h)
    )
    one = jnp.ones((1,) * (len(shape) - 1), wide)  # the last step takes g_final as it is
    after = previous(a_wide, one, axis, not reverse)
    g_wide = jnp.broadcast_to(cast(g, wide), shape)
    full = scan(
        after,
        g_wide,
        g_final,
        axis=axis,
        reverse=not reverse,
        final=True,
        dtype=wide,
        native=native,
    )
    G, earliest = full
    before = previous(h_wide, None if h0 is None else cast(h0, wide), axis, reverse)
    ga = (G * before).sum(summed, keepdims=True)
    out = [cast(ga, a.dtype), cast(G, x_dtype)]
    if h0 is not None:
        if T != 0:
            earliest = (
                lax.index_in_dim(a_wide, T - 1 if reverse else 0, axis, keepdims=False) * earliest
            )
        out.append(cast(earliest, h0.dtype))
    return out


def _backward_states(states: Sequence[Any], has_h0: bool) -> tuple[Any, Any]:
    """(h0 or None, g_final or None)"""
    h0 = states[0] if has_h0 else None
    rest = states[1:] if has_h0 else states
    return h0, rest[0] if rest else None


# ---- types: those of an element-wise formula of the same operands, so that JAX's own rules for shardings, mesh axes
# and unknown extents hold for ours


def _types(formula: Callable[..., list[Array]], *avals: Any) -> list[Any]:
    return list(jax.make_jaxpr(formula)(*avals).out_avals)


def _broadcast_add(dtype: Any, arrays: Sequence[Array]) -> Array:
    return functools.reduce(jnp.add, [cast(array, dtype) for array in arrays])


def _type_of_forward(
    avals: Sequence[Any], states: Sequence[Any], *, axis: int, final: bool, dtype: Any
) -> list[Any]:
    count = len(avals)

    def formula(*operands: Array) -> list[Array]:
        full = [*operands[:count], *(lax.expand_dims(state, (axis,)) for state in operands[count:])]
        h = _broadcast_add(dtype, full)
        return [h, h.sum(axis)] if final else [h]

    _refuse_sharded_time(avals, axis)
    return _types(formula, *avals, *states)


def _scan_types(
    a: Any, x: Any, *h0: Any, axis: int, reverse: bool, final: bool, dtype: Any, native: bool
) -> list[Any]:
    return _type_of_forward((a, x), h0, axis=axis, final=final, dtype=dtype)


def _tangent_types(
    a: Any,
    h: Any,
    da: Any,
    dx: Any,
    *states: Any,
    axis: int,
    reverse: bool,
    final: bool,
    dtype: Any,
    native: bool,
) -> list[Any]:
    return _type_of_forward((a, h, da, dx), states, axis=axis, final=final, dtype=dtype)


def _backward_types(
    a: Any,
    h: Any,
    g: Any,
    *states: Any,
    axis: int,
    reverse: bool,
    x_dtype: Any,
    summed: tuple[int, ...],
    has_h0: bool,
    native: bool,
) -> list[Any]:
    def formula(a: Array, h: Array, g: Array, *states: Array) -> list[Array]:
        full = [a, h, g, *(lax.expand_dims(state, (axis,)) for state in states)]
        wide = functools.reduce(jnp.promote_types, [value.dtype for value in full])
        gx = _broadcast_add(wide, full)
        out = [cast(gx.sum(summed, keepdims=True), a.dtype), cast(gx, x_dtype)]
        return [*out, cast(gx.sum(axis), states[0].dtype)] if has_h0 else out

    _refuse_sharded_time((a, h, g), axis)
    return _types(formula, a, h, g, *states)


def _refuse_sharded_time(avals: Sequence[Any], axis: int) -> None:
    """On a mesh with explicit axes a sharded time axis is an error, as it is for `jax.numpy.cumsum`."""
    for aval in avals:
        spec = getattr(getattr(aval, "sharding", None), "spec", ())
        if axis < len(spec) and spec[axis] is not None:
            raise DeviceError(
                f"The recurrence runs along axis {axis}, which is sharded over {spec[axis]!r} in {aval}. Each step "
                "needs the one before it: reshard that axis to be whole on every device, with jax.sharding.reshard."
            )


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
    a, _, *h0 = primals
    da, dx, *dh0 = tangents
    out = scan_p.bind(*primals, **params)
    states = (h0[0], dh0[0]) if h0 else (None, None)
    return out, linear_map(a, out[0], states[0], da, dx, states[1], out[0].shape, **params)


def _tangent_jvp(
    primals: Sequence[Array], tangents: Sequence[Any], **params: Any
) -> tuple[list[Array], list[Array]]:
    a, h, _, _, *states = primals
    ta, th, tda, tdx, *tstates = tangents
    out = tangent_p.bind(*primals, **params)
    if _known((ta, th, *tstates[:1])):
        h0, tdh0 = (states[0], tstates[1]) if states else (None, None)
        return out, linear_map(a, h, h0, tda, tdx, tdh0, out[0].shape, **params)
    return out, _jvp_through(functools.partial(tangent_by_scan, **params), primals, tangents)


def _backward_jvp(
    primals: Sequence[Array], tangents: Sequence[Any], **params: Any
) -> tuple[list[Array], list[Array]]:
    a, h, g, *states = primals
    ta, th, tg, *tstates = tangents
    out = backward_p.bind(*primals, **params)
    th0, tg_final = _backward_states(tstates, params["has_h0"])
    if not _known((ta, th, *([] if th0 is None else [th0]))):
        return out, _jvp_through(functools.partial(backward_by_scan, **params), primals, tangents)
    h0, g_final = _backward_states(states, params["has_h0"])
    tg = filler(out[1].shape, (a, h), g.dtype) if isinstance(tg, ad.Zero) else tg
    moved = [] if g_final is None else [_instantiate(tg_final, g_final)]
    return out, _bind(backward_p, a, h, tg, *([] if h0 is None else [h0]), *moved, **params)


# ---- transposes


def _transpose_linear_map(
    cotangents: Sequence[Any], a: Array, h: Any, h0: Any, da: Any, dx: Any, dh0: Any, **params: Any
) -> tuple[Any, Any, Any]:
    """Cotangents of da, dx, dh0, each None where that was not asked for (only an undefined primal is)."""
    shape = cotangents[0].aval.shape if isinstance(cotangents[0], ad.Zero) else cotangents[0].shape
    dtype, axis = params["dtype"], params["axis"]
    wanted_a, wanted_x, wanted_h0 = (ad.is_undefined_primal(value) for value in (da, dx, dh0))
    if h is None:  # without da nothing depends on h
        h = jnp.zeros((1,) * len(shape), dtype)
    g = filler(shape, (a, h), dtype) if isinstance(cotangents[0], ad.Zero) else cotangents[0]
    g_final = cotangents[1] if params["final"] and not isinstance(cotangents[1], ad.Zero) else None
    if dh0 is not None and h0 is None:
        h0 = state_filler(shape, (dh0.aval if wanted_h0 else dh0).dtype)
    ga, gx, *gh0 = backward(
        a,
        h,
        g,
        h0,
        g_final,
        axis=axis,
        reverse=params["reverse"],
        x_dtype=(dx.aval if wanted_x else dx).dtype,
        # Nobody reads ga where it is not wanted: as one number it costs no memory traffic.
        summed=repeated_axes(da.aval.shape, shape) if wanted_a else tuple(range(len(shape))),
        native=params["native"],
    )
    return (
        ga if wanted_a else None,
        sum_to(gx, dx.aval.shape) if wanted_x else None,
        sum_to(gh0[0], dh0.aval.shape) if wanted_h0 else None,
    )


def _scan_transpose(
    cotangents: Sequence[Any], a: Any, x: Any, *h0: Any, **params: Any
) -> list[Any]:
    if ad.is_undefined_primal(a):
        raise NotImplementedError(
            "The linear recurrence is linear in x and h0, not in a: it has no transpose there."
        )
    _, gx, gh0 = _transpose_linear_map(
        cotangents, a, None, None, None, x, h0[0] if h0 else None, **params
    )
    return [None, gx, gh0] if h0 else [None, gx]


def _tangent_transpose(
    cotangents: Sequence[Any], a: Array, h: Array, da: Any, dx: Any, *states: Any, **params: Any
) -> list[Any]:
    h0, dh0 = states or (None, None)
    ga, gx, gh0 = _transpose_linear_map(cotangents, a, h, h0, da, dx, dh0, **params)
    return [None, None, ga, gx, None, gh0] if states else [None, None, ga, gx]


def _backward_transpose(
    cotangents: Sequence[Any], a: Array, h: Array, g: Any, *states: Any, **params: Any
) -> list[Any]:
    cga, cgx, *cgh0 = cotangents
    h0, g_final = _backward_states(states, params["has_h0"])
    wanted, wanted_final = ad.is_undefined_primal(g), ad.is_undefined_primal(g_final)
    shape = cgx.aval.shape if isinstance(cgx, ad.Zero) else cgx.shape
    out = linear_map(
        a,
        h,
        h0,
        cga,
        cgx,
        cgh0[0] if cgh0 else None,
        shape,
        axis=params["axis"],
        reverse=params["reverse"],
        final=wanted_final,
        dtype=(g.aval if wanted else g).dtype,
        native=params["native"],
    )
    ct_g = sum_to(out[0], g.aval.shape) if wanted else None
    ct_final = [] if g_final is None else [None]
    if wanted_final:
        ct_final = [cast(sum_to(out[1], g_final.aval.shape), g_final.aval.dtype)]
    return [None, None, ct_g, *([] if h0 is None else [None]), *ct_final]


# ---- batching: the new axis goes where the data has it, as extent 1 into operands that have none


def _batch(
    primitive: Primitive,
    full_operands: int,
    operands: Sequence[Array],
    dims: Sequence[Any],
    **params: Any,
) -> Any:
    """`dims[i]` is the batch axis of operand i, None (or not an int) where it has none; states come last."""
    axis = params["axis"]
    at = _batch_axis(operands, dims, full_operands, axis)
    new_axis = axis + 1 if at <= axis else axis
    state_at = at if at < new_axis else at - 1
    placed = [
        _place(operand, dim, at if i < full_operands else state_at)
        for i, (operand, dim) in enumerate(zip(operands, dims, strict=True))
    ]
    params["axis"] = new_axis
    if "summed" in params:
        params["summed"] = tuple(d + 1 if d >= at else d for d in params["summed"])
    out = _bind(primitive, *placed, **params)
    states = len(out) - (2 if primitive is backward_p else 1)
    return out, [at] * (len(out) - states) + [state_at] * states


def _batch_axis(
    operands: Sequence[Array], dims: Sequence[Any], full_operands: int, axis: int
) -> int:
    """Where the largest batched operand has its batch axis, so that no large one is transposed."""
    batched = [i for i, dim in enumerate(dims) if isinstance(dim, int)]
    full = [i for i in batched if i < full_operands]
    if full:
        return dims[max(full, key=lambda i: sum(n != 1 for n in operands[i].shape))]
    dim = dims[batched[0]]
    return dim if dim <= axis else dim + 1


def _place(operand: Array, dim: Any, at: int) -> Array:
    if not isinstance(dim, int):
        return lax.expand_dims(operand, (at,))
    return operand if dim == at else jnp.moveaxis(operand, dim, at)


# ---- registration


def _make(
    name: str,
    types: Callable[..., list[Any]],
    jvp: Callable[..., Any],
    transpose: Callable[..., Any],
    full: int,
) -> Primitive:
    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_abstract_eval(types)
    primitive.def_impl(functools.partial(_run, primitive))
    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose
    batching.primitive_batchers[primitive] = functools.partial(_batch, primitive, full)
    return primitive


def _run(primitive: Primitive, *operands: Array, **params: Any) -> list[Array]:
    """One primitive on its own, as `jax.disable_jit` and evaluated jaxprs ask for."""
    with jax.disable_jit(False):
        return _compiled(primitive, tuple(sorted(params.items())))(*operands)


@functools.lru_cache(maxsize=1024)
def _compiled(
    primitive: Primitive, params: tuple[tuple[str, Any], ...]
) -> Callable[..., list[Array]]:
    return jax.jit(functools.partial(primitive.bind, **dict(params)))


scan_p = _make("scanlib_scan", _scan_types, _scan_jvp, _scan_transpose, 2)
tangent_p = _make("scanlib_tangent", _tangent_types, _tangent_jvp, _tangent_transpose, 4)
backward_p = _make("scanlib_backward", _backward_types, _backward_jvp, _backward_transpose, 3)
