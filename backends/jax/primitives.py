"""The recurrence as three JAX primitives: their types and batching; nothing here knows how they run.

    scan      (a, x, [h0], [starts])                  -> h, [final]
    tangent   (a, h, da, dx, [h0, dh0], [starts])     -> dh, [dfinal]   linear in da, dx, dh0
    backward  (a, h, g, [h0], [g_final], [starts])    -> ga, gx, [gh0]  linear in g, g_final; the fused kernel

`tangent` is what `scan` differentiates to and `backward` is its transpose, so a gradient is one scan and one backward.
How they are differentiated is in `autodiff`.

All operands have the same number of axes (states one fewer) and extent 1 wherever they are repeated, so a broadcast
`a` is never stored. `arithmetic.filler` makes zeros of that kind for what a derivative does not depend on. What
`starts` are, and which axes states have beside offsets, is in `starts`.
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

from scanlib.backends.jax import starts as of_starts
from scanlib.backends.jax.arithmetic import cast, filler, state_filler
from scanlib.backends.jax.internals import make_vary, spec_of, varying_axes
from scanlib.errors import DeviceError

Array = jax.Array
Params = dict[str, Any]


# ---- the primitives, bound


def scan(
    a: Array,
    x: Array,
    h0: Array | None,
    starts: Array | None = None,
    *,
    axis: int,
    reverse: bool,
    final: bool,
    dtype: Any,
    native: bool,
) -> list[Array]:
    """`[h]` or `[h, final]` in `dtype`; `native=False` takes the pure-JAX path on every platform."""
    return bind(
        scan_p,
        a,
        x,
        *present(h0, starts),
        axis=axis,
        reverse=reverse,
        final=final,
        dtype=dtype,
        native=native,
    )


def backward(
    a: Array,
    h: Array,
    g: Array,
    h0: Array | None,
    g_final: Array | None,
    starts: Array | None = None,
    *,
    axis: int,
    reverse: bool,
    x_dtype: Any,
    summed: tuple[int, ...],
    native: bool,
) -> list[Array]:
    """`[ga, gx]` or, with h0, `[ga, gx, gh0]`; `ga` is summed along the axes `summed`, the others are full size."""
    return bind(
        backward_p,
        a,
        h,
        g,
        *present(h0, g_final, starts),
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
    starts: Array | None,
    **params: Any,
) -> list[Array]:
    """How `[h, final]` changes with the inputs; da, dx, dh0 may be `ad.Zero`, h is needed where da is not."""
    dtype = params["dtype"]
    if isinstance(da, ad.Zero):
        dx = filler(shape, (a,), dtype) if isinstance(dx, ad.Zero) else dx
        dh0 = None if dh0 is None or isinstance(dh0, ad.Zero) else dh0
        return scan(a, dx, dh0, starts, **params)
    assert h is not None
    dx = filler(shape, (a, h), dtype) if isinstance(dx, ad.Zero) else dx
    states: tuple[Array, ...] = ()
    if h0 is not None:
        states = (h0, state_filler(shape, dtype, starts) if isinstance(dh0, ad.Zero) else dh0)
    return bind(tangent_p, a, h, da, dx, *states, *present(starts), **params)


def present(*operands: Any) -> list[Any]:
    return [operand for operand in operands if operand is not None]


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


def _shaped_like_states(value: Array, axis: int, starts: Any) -> Array:
    """`value` summed over time, as states are shaped."""
    if not of_starts.packed(starts):
        return value.sum(axis)
    return jnp.broadcast_to(
        value.sum(axis, keepdims=True), of_starts.state_shape(value.shape, axis, starts)
    )


def _as_full(operands: Sequence[Array], full: int, axis: int) -> tuple[list[Array], Any]:
    """(what broadcasts to the result, the operand that says where sequences start)

    A reset is among the first, as it may have a batch that no other has. Of packed states one is as good as all.
    """
    numbers, starts = of_starts.split(operands)
    states = [of_starts.along_time(state, axis, starts) for state in numbers[full:]]
    if of_starts.packed(starts):
        states = [state.sum(axis, keepdims=True) for state in states]
    return [*numbers[:full], *states, *([starts] if of_starts.resets(starts) else [])], starts


def _type_of_forward(full: int, *operands: Any, axis: int, final: bool, dtype: Any) -> list[Any]:
    def formula(*operands: Array) -> list[Array]:
        values, starts = _as_full(operands, full, axis)
        h = _broadcast_add(dtype, values)
        return [h, _shaped_like_states(h, axis, starts)] if final else [h]

    _refuse_sharded_time(operands, full, axis)
    return _types(formula, *operands)


def _scan_types(
    *operands: Any, axis: int, reverse: bool, final: bool, dtype: Any, native: bool
) -> list[Any]:
    return _type_of_forward(2, *operands, axis=axis, final=final, dtype=dtype)


def _tangent_types(
    *operands: Any, axis: int, reverse: bool, final: bool, dtype: Any, native: bool
) -> list[Any]:
    return _type_of_forward(4, *operands, axis=axis, final=final, dtype=dtype)


def _backward_types(
    *operands: Any,
    axis: int,
    reverse: bool,
    x_dtype: Any,
    summed: tuple[int, ...],
    has_h0: bool,
    native: bool,
) -> list[Any]:
    def formula(*operands: Array) -> list[Array]:
        a, h0 = operands[0], operands[3] if has_h0 else None
        full, starts = _as_full(operands, 3, axis)
        numbers = [value.dtype for value in full if value.dtype != bool]
        gx = _broadcast_add(functools.reduce(jnp.promote_types, numbers), full)
        out = [cast(gx.sum(summed, keepdims=True), a.dtype), cast(gx, x_dtype)]
        if h0 is None:
            return out
        return [*out, cast(_shaped_like_states(gx, axis, starts), h0.dtype)]

    _refuse_sharded_time(operands, 3, axis)
    return _types(formula, *operands)


def _refuse_sharded_time(avals: Sequence[Any], full: int, axis: int) -> None:
    """On a mesh with explicit axes a sharded time axis is an error, as it is for `jax.numpy.cumsum`."""
    _, starts = of_starts.split(avals)
    for aval in (*avals[:full], *([starts] if of_starts.resets(starts) else [])):
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
    """`dims[i]` is the batch axis of operand i, None (or not an int) where it has none; the states come after all."""
    axis = params["axis"]
    _, starts = of_starts.split(operands)
    if of_starts.packed(starts) and isinstance(dims[-1], int):
        return _one_by_one(primitive, operands, dims, **params)
    # States have an axis less, but packed ones.
    full = [
        i < full_operands or of_starts.packed(starts) or operand is starts
        for i, operand in enumerate(operands)
    ]
    at = _batch_axis(operands, dims, full, axis)
    new_axis = axis + 1 if at <= axis else axis
    state_at = at if of_starts.packed(starts) or at < new_axis else at - 1
    placed = [
        operand
        if operand is starts and of_starts.packed(starts)
        else _place(operand, dim, at if of_result else state_at)
        for operand, dim, of_result in zip(operands, dims, full, strict=True)
    ]
    params["axis"] = new_axis
    if "summed" in params:
        params["summed"] = tuple(d + 1 if d >= at else d for d in params["summed"])
    out = bind(primitive, *placed, **params)
    states = len(out) - (2 if primitive is backward_p else 1)
    return out, [at] * (len(out) - states) + [state_at] * states


def _one_by_one(
    primitive: Primitive, operands: Sequence[Array], dims: Sequence[Any], **params: Any
) -> Any:
    """Sequences that are cut up differently from one member of the batch to the next: no one call has them all."""
    batched = [i for i, dim in enumerate(dims) if isinstance(dim, int)]

    def one(members: Sequence[Array]) -> list[Array]:
        given = list(operands)
        for i, member in zip(batched, members, strict=True):
            given[i] = member
        return bind(primitive, *given, **params)

    out = lax.map(one, [jnp.moveaxis(operands[i], dims[i], 0) for i in batched])
    return out, [0] * len(out)


def _batch_axis(
    operands: Sequence[Array], dims: Sequence[Any], full: Sequence[bool], axis: int
) -> int:
    """Where the largest batched operand has its batch axis, so that no large one is transposed."""
    batched = [i for i, dim in enumerate(dims) if isinstance(dim, int)]
    of_result = [i for i in batched if full[i]]
    if of_result:
        return dims[max(of_result, key=lambda i: sum(n != 1 for n in operands[i].shape))]
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
