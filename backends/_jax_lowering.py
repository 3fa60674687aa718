"""How the primitives run: libscanlib through XLA's FFI where it has handlers, JAX operations elsewhere.

The choice is made when a program is lowered for a platform, from `HANDLERS`. A handler for a GPU has one more result,
its scratch memory, which is dropped here. What runs on several devices is wrapped by
`_jax_sharding` first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import mlir

from scanlib import compiler, gpu, native
from scanlib.backends import _jax_internals as internals
from scanlib.backends import _jax_probe, _jax_pure, _jax_sharding, _jax_views
from scanlib.backends._jax_autodiff import backward_by_scan, tangent_by_scan
from scanlib.backends._jax_primitives import Array, accumulator, backward_p, cast, scan_p, tangent_p
from scanlib.errors import MissingLibraryError
from scanlib.problem import (
    Problem,
    broadcast_strides,
    dtype_code,
    state_strides,
)

FORWARD, BACKWARD = "scanlib_forward", "scanlib_backward"

#: the platform a program is lowered for -> its FFI targets -> the symbols of libscanlib that serve them
HANDLERS = {
    "cpu": {FORWARD: "scanlib_xla_cpu_forward", BACKWARD: "scanlib_xla_cpu_backward"},
    "cuda": {FORWARD: "scanlib_xla_cuda_forward", BACKWARD: "scanlib_xla_cuda_backward"},
}
#: what XLA's registry of FFI targets calls them
REGISTRY = {"cpu": "cpu", "cuda": "CUDA"}

EXPORT_HINT = "jax.export needs disabled_checks=scanlib.jax_export.CHECKS"

STATES = ("h0", "final", "grad_final", "grad_h0")


@functools.cache
def missing(platform: str) -> str:
    """Why libscanlib does not serve XLA's `platform`; empty if it does. The first call registers its handlers."""
    symbols = HANDLERS.get(platform)
    if symbols is None:
        return f"libscanlib has no kernels for JAX on {platform}"
    try:
        library = native.library()
    except MissingLibraryError as error:
        return str(error)
    if not all(hasattr(library, symbol) for symbol in symbols.values()):
        return "this libscanlib was compiled without XLA handlers, because jaxlib's headers were missing"
    if platform == "cuda":
        if reason := compiler.unavailable():
            return reason
        gpu.library()  # sets the compiler that the handlers call
    try:
        for target, symbol in symbols.items():
            jax.ffi.register_ffi_target(
                target, jax.ffi.pycapsule(getattr(library, symbol)), platform=REGISTRY[platform]
            )
    except Exception as error:  # whatever class this jaxlib raises, JAX operations still compute
        major, minor = divmod(library.scanlib_xla_ffi_version(), 1000)
        return f"this jaxlib refuses libscanlib's handlers, compiled for XLA FFI {major}.{minor}: {error}"
    return ""


# ---- the handlers' calls


def problem_of(
    shape: Sequence[int], axis: int, operands: Mapping[str, Any], reverse: bool = False
) -> native.NativeProblem:
    """What the handler will make of `operands` by role; raises `native.RankError` where it cannot."""
    shape = tuple(shape)
    problem = Problem(shape, axis, shape[:axis] + shape[axis + 1 :])
    layouts = {}
    for role, value in operands.items():
        own = _jax_views.strides_of(value)
        strides = (
            state_strides(value.shape, own, problem)
            if role in STATES
            else broadcast_strides(value.shape, own, shape)
        )
        layouts[role] = dtype_code(value.dtype.name, role), strides
    return native.prepare(shape, axis, layouts, reverse=reverse)


def _too_many_axes(shape: Sequence[Any], axis: int, operands: Mapping[str, Any]) -> bool:
    """Whether the axes do not merge into as few as libscanlib loops over: more than six that alternate in what they
    repeat. An extent that is known only at run time cannot be asked about; the handler then returns the error."""
    if not all(isinstance(n, int) for n in shape):
        return False
    try:
        problem_of(shape, axis, operands)
    except native.RankError:
        return True
    return False


def _without_time(shape: tuple[Any, ...], axis: int) -> tuple[Any, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _full_shape(full: Sequence[Array], states: Sequence[Array], axis: int) -> tuple[Any, ...]:
    shape = jnp.broadcast_shapes(*(operand.shape for operand in full))
    with_time = ((*state.shape[:axis], shape[axis], *state.shape[axis:]) for state in states)
    return jnp.broadcast_shapes(shape, *with_time)


def _call_forward(
    *operands: Array,
    axis: int,
    reverse: bool,
    final: bool,
    dtype: Any,
    platform: str,
    **_: Any,
) -> list[Array]:
    a, x, *h0 = operands
    shape = _full_shape((a, x), h0, axis)
    results = {"h": jax.ShapeDtypeStruct(shape, dtype)}
    if final:
        results["final"] = jax.ShapeDtypeStruct(_without_time(shape, axis), dtype)
    given = dict(zip(("a", "x", "h0"), operands, strict=False))
    if _too_many_axes(shape, axis, given | results):
        given = _materialised(given, shape, axis)
    return _call(platform, FORWARD, given, results, axis, reverse)


def _call_backward(
    *operands: Array,
    axis: int,
    reverse: bool,
    x_dtype: Any,
    summed: tuple[int, ...],
    has_h0: bool,
    platform: str,
    a_dtype: Any = None,
    **_: Any,
) -> list[Array]:
    a, h, g, *states = operands
    shape = _full_shape((a, h, g), states, axis)
    a_dtype = a_dtype or a.dtype
    results = {
        "grad_a": jax.ShapeDtypeStruct(
            tuple(1 if d in summed else n for d, n in enumerate(shape)), a_dtype
        ),
        "grad_x": jax.ShapeDtypeStruct(shape, x_dtype),
    }
    if has_h0:
        results["grad_h0"] = jax.ShapeDtypeStruct(_without_time(shape, axis), states[0].dtype)
    roles = ("a", "h", "grad_h", *(("h0", "grad_final") if has_h0 else ("grad_final",)))
    given = dict(zip(roles, operands, strict=False))
    if not _too_many_axes(shape, axis, given | results):
        return _call(platform, BACKWARD, given, results, axis, reverse)
    results["grad_a"] = jax.ShapeDtypeStruct(shape, accumulator(a_dtype))
    full = _materialised(given, shape, axis)
    grad_a, *rest = _call(platform, BACKWARD, full, results, axis, reverse)
    return [cast(grad_a.sum(summed, keepdims=True), a_dtype), *rest]


def _materialised(
    given: Mapping[str, Array], shape: tuple[Any, ...], axis: int
) -> dict[str, Array]:
    if any(isinstance(value, _jax_views.Viewed) for value in given.values()):
        raise native.RankError("views with more axes than libscanlib loops over")
    state_shape = _without_time(shape, axis)
    return {
        role: jnp.broadcast_to(value, state_shape if role in STATES else shape)
        for role, value in given.items()
    }


def _call(
    platform: str,
    target: str,
    given: Mapping[str, Array],
    results: Mapping[str, Any],
    axis: int,
    reverse: bool,
) -> list[Array]:
    types = list(results.values())
    if platform == "cuda":
        shape = results["h" if target == FORWARD else "grad_x"].shape
        problem = problem_of(shape, axis, {**given, **results}, reverse)
        types.append(jax.ShapeDtypeStruct((gpu.scratch_bytes(problem),), np.uint8))
        _compile_ahead(problem)
    call = jax.ffi.ffi_call(target, types)
    arrays, views = _jax_views.call_attributes(given.values())
    out = call(*arrays, axis=np.int64(axis), reverse=np.bool_(reverse), views=views)
    return list(out)[: len(results)]


def _compile_ahead(problem: native.NativeProblem) -> None:
    """Have the kernels of `problem` ready for the GPUs of this process: a program that runs should compile nothing."""
    for architecture in _architectures():
        for definitions in gpu.programs(problem):
            compiler.program(definitions, architecture)


@functools.cache
def _architectures() -> tuple[int, ...]:
    """Of the GPUs here, 90 for sm_90; none where a program is lowered for another machine."""
    try:
        devices = jax.local_devices(backend="cuda")
    except RuntimeError:
        return ()
    found = {str(device.compute_capability).replace(".", "") for device in devices}
    return tuple(sorted(int(capability) for capability in found))


# ---- the same in JAX operations


def _scan_by_jax(
    *operands: Array, axis: int, reverse: bool, final: bool, dtype: Any, **_: Any
) -> list[Array]:
    wide = accumulator(
        functools.reduce(jnp.promote_types, [operand.dtype for operand in operands], dtype)
    )
    a, x, *h0 = (cast(operand, wide) for operand in operands)
    h, state = _jax_pure.scan(a, x, h0[0] if h0 else None, axis, reverse)
    return [cast(h, dtype), cast(state, dtype)] if final else [cast(h, dtype)]


# ---- registration


def _register(
    primitive: Any, call: Callable[..., list[Array]], by_jax: Callable[..., list[Array]]
) -> None:
    rule = functools.partial(_lower, call, by_jax)
    # Not cached by JAX, which would lower it into a function of its own, where operands have no origin to look at; and
    # one rule for all platforms, because JAX cannot choose among several that are not cached.
    mlir.register_lowering(primitive, rule, cacheable=False)


def _lower(
    call: Callable[..., list[Array]],
    by_jax: Callable[..., list[Array]],
    ctx: Any,
    *operands: Any,
    **params: Any,
) -> Any:
    platforms = internals.platforms(ctx)
    if internals.exporting(ctx):
        call = _hinting(call)
    runs = {p: functools.partial(call, platform=p) for p in platforms if _served(p, ctx, params)}
    if len(platforms) == 1 and runs:
        return _jax_sharding.lower(runs[platforms[0]], ctx, operands, params)

    def chosen(*arrays: Array) -> list[Array]:
        cases = {platform: functools.partial(run, **params) for platform, run in runs.items()}
        return jax.lax.platform_dependent(
            *arrays, default=functools.partial(by_jax, **params), **cases
        )

    run = chosen if runs else functools.partial(by_jax, **params)
    return mlir.lower_fun(run, multiple_results=True)(ctx, *operands)


def _hinting(call: Callable[..., list[Array]]) -> Callable[..., list[Array]]:
    """`call` under a name that stands in jax.export's refusal to serialise a custom call it does not know."""

    @functools.wraps(call)
    def named(*operands: Array, **params: Any) -> list[Array]:
        with jax.named_scope(EXPORT_HINT):
            return call(*operands, **params)

    return named


def _served(platform: str, ctx: Any, params: Mapping[str, Any]) -> bool:
    """Whether libscanlib runs a call on `platform`; warns, once for each reason, where it could but does not."""
    if platform not in HANDLERS or not params["native"]:
        return False
    reason = missing(platform)
    symbolic = any(not isinstance(n, int) for aval in ctx.avals_in for n in aval.shape)
    if platform == "cuda" and symbolic and not reason:
        reason = "how much scratch memory a CUDA kernel needs is not known for extents left open in an export"
    if reason:
        internals.warn_once(f"scanlib runs as JAX operations, which is right but slow: {reason}")
        return False
    for price in _jax_probe.lost():
        internals.warn_once(f"scanlib's results are right, but {price}")
    return True


_register(scan_p, _call_forward, _scan_by_jax)
_register(backward_p, _call_backward, backward_by_scan)
mlir.register_lowering(tangent_p, mlir.lower_fun(tangent_by_scan, multiple_results=True))
