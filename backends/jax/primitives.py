"""The recurrence as three JAX primitives: their types and batching; nothing here knows how they run.

    scan      (a, x, [h0])                  -> h, [final]
    tangent   (a, h, da, dx, [h0, dh0])     -> dh, [dfinal]             linear in da, dx, dh0
    backward  (a, h, g, [h0], [g_final])    -> ga, gx, [gh0]            linear in g, g_final; the fused kernel

`tangent` is what `scan` differentiates to and `backward` is its transpose, so a gradient is one scan and one backward.
How they are differentiated is in `autodiff`.

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

from scanlib.backends.jax.internals import make_vary, spec_of, varying_axes
from scanlib.call import reduced_axes
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
    return bind(
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
    return bind(
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
    return bind(tangent_p, a, h, da, dx, *states, **params)


def bind(primitive: Primitive, *operands: Array, **params: Any) -> list[Array]:
    """Bind operands that vary alike over the manual axes of a `shard_map`, as JAX asks of every primitive."""
    return primitive.bind(*_vary_alike(operands), **params)


def _vary_alike(operands: tuple[Array, ...]) -> tuple[Array, ...]:
    varying = [varying_axes(operand) for operand in operands]
    union = frozenset().union(*varying)
    if not union:
        return operands
    return tuple(
        make_vary(operand, tuple(sorted(union - axes))) if axes != union else operand
        for operand, axes in zip(operands, varying, strict=True)
    )


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
        spec = spec_of(aval)
        if axis < len(spec) and spec[axis] is not None:
            raise DeviceError(
                f"The recurrence runs along axis {axis}, which is sharded over {spec[axis]!r} in {aval}. Each step "
                "needs the one before it: reshard that axis to be whole on every device, with jax.sharding.reshard."
            )


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
    out = bind(primitive, *placed, **params)
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


def _make(name: str, types: Callable[..., list[Any]], full_operands: int) -> Primitive:
    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_abstract_eval(types)
    primitive.def_impl(functools.partial(_run, primitive))
    batching.primitive_batchers[primitive] = functools.partial(_batch, primitive, full_operands)
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


scan_p = _make("scanlib_scan", _scan_types, 2)
tangent_p = _make("scanlib_tangent", _tangent_types, 4)
backward_p = _make("scanlib_backward", _backward_types, 3)
