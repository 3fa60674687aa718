"""How the primitives run: libscanlib through XLA's FFI where it has handlers, JAX operations elsewhere.

The choice is made when a program is lowered for a platform, from `HANDLERS`. A handler for a GPU has one more result,
its scratch memory, which is dropped here. What runs on several devices is wrapped by
`sharding` first.
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
from scanlib.backends.jax import internals as internals
from scanlib.backends.jax import probe, pure, sharding, views
from scanlib.backends.jax import starts as of_starts
from scanlib.backends.jax.arithmetic import accumulator, cast
from scanlib.backends.jax.by_scan import backward_by_scan, tangent_by_scan
from scanlib.backends.jax.primitives import Array, backward_p, scan_p, tangent_p
from scanlib.call import call_of
from scanlib.errors import MissingLibraryError
from scanlib.plan import Layout, prepare
from scanlib.roles import INITIAL, NUMBERS, READ, STARTS, states_last

TARGET = "scanlib_recurrence"

#: the platform a program is lowered for -> the symbol of libscanlib that serves it, and XLA's own name of the platform
HANDLERS = {"cpu": ("scanlib_xla_cpu", "cpu"), "cuda": ("scanlib_xla_cuda", "CUDA")}

EXPORT_HINT = "jax.export needs disabled_checks=scanlib.jax_export.CHECKS"


@functools.cache
def missing(platform: str) -> str:
    """Why libscanlib does not serve XLA's `platform`; empty if it does. The first call registers its handlers."""
    if platform not in HANDLERS:
        return f"libscanlib has no kernels for JAX on {platform}"
    try:
        library = native.library()
    except MissingLibraryError as error:
        return str(error)
    symbol, registry = HANDLERS[platform]
    if not hasattr(library, symbol):
        return "this libscanlib was compiled without XLA handlers, because jaxlib's headers were missing"
    if platform == "cuda":
        if reason := compiler.unavailable():
            return reason
        gpu.library()  # sets the compiler that the handlers call
    try:
        handler = jax.ffi.pycapsule(getattr(library, symbol))
        jax.ffi.register_ffi_target(TARGET, handler, platform=registry)
    except Exception as error:  # whatever class this jaxlib raises, JAX operations still compute
        major, minor = divmod(library.scanlib_xla_ffi_version(), 1000)
        return f"this jaxlib refuses libscanlib's handlers, compiled for XLA FFI {major}.{minor}: {error}"
    return ""


# ---- the handlers' calls


def problem_of(
    shape: Sequence[int],
    axis: int,
    operands: Mapping[str, Any],
    reverse: bool = False,
    target: gpu.Target = gpu.CPU,
) -> native.NativeProblem:
    """What the handler will make of `operands` by role: arrays, views or `jax.ShapeDtypeStruct`.

    Its programs are compiled for `target`: a program that runs should compile nothing.
    """
    layouts = {role: _layout(value) for role, value in operands.items()}
    offsets = operands.get("offsets")
    call = call_of(tuple(shape), axis, None if offsets is None else offsets.shape[0] - 1)
    return prepare(call, layouts, reverse=reverse, target=target)


def _layout(value: Any) -> Layout:
    strides = tuple(stride * value.dtype.itemsize for stride in views.strides_of(value))
    return Layout(tuple(value.shape), strides, value.dtype.name)


def _by_role(
    operands: Sequence[Array], *, backward: bool, without: Sequence[str] = ()
) -> dict[str, Array]:
    """A primitive's operands by role, when some of those it may do `without` are not given."""
    numbers, starts = of_starts.split(operands)
    absent = {*STARTS, *without}
    roles = [role for role in states_last(READ, backward=backward) if role not in absent]
    given = dict(zip(roles, numbers, strict=False))
    return given if starts is None else {**given, of_starts.role(starts): starts}


def _call_forward(
    *operands: Array,
    axis: int,
    reverse: bool,
    final: bool,
    dtype: Any,
    platform: str,
    **_: Any,
) -> list[Array]:
    given = _by_role(operands, backward=False)
    shape = of_starts.result_shape(operands, 2, axis)
    results = {"h": jax.ShapeDtypeStruct(shape, dtype)}
    if final:
        state_shape = of_starts.state_shape(shape, axis, given.get("offsets"))
        results["final"] = jax.ShapeDtypeStruct(state_shape, dtype)
    return _call(platform, given, results, axis, reverse)


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
    given = _by_role(operands, backward=True, without=() if has_h0 else (INITIAL,))
    shape = of_starts.result_shape(operands, 3, axis)
    a_dtype = a_dtype or given["a"].dtype
    results = {
        "grad_a": jax.ShapeDtypeStruct(
            tuple(1 if d in summed else n for d, n in enumerate(shape)), a_dtype
        ),
        "grad_x": jax.ShapeDtypeStruct(shape, x_dtype),
    }
    if has_h0:
        state_shape = of_starts.state_shape(shape, axis, given.get("offsets"))
        results["grad_h0"] = jax.ShapeDtypeStruct(state_shape, given[INITIAL].dtype)
    return _call(platform, given, results, axis, reverse)


def _call(
    platform: str, given: Mapping[str, Array], results: Mapping[str, Any], axis: int, reverse: bool
) -> list[Array]:
    types = list(results.values())
    tuning: list[int] = []
    if platform == "cuda":
        shape = results["h" if "h" in results else "grad_x"].shape
        target = gpu.target(_architectures())
        problem = problem_of(shape, axis, {**given, **results}, reverse, target)
        if numbers := dict(target.tuning):
            tuning = [numbers.get(name, 0) for name in native.TUNING]
        types.append(jax.ShapeDtypeStruct((gpu.scratch_bytes(problem),), np.uint8))
    call = jax.ffi.ffi_call(TARGET, types)
    arrays, viewed = views.call_attributes(given.values())
    roles = [NUMBERS[role] for role in (*given, *results)]
    lists = {"roles": roles, "views": viewed, "tuning": tuning}
    attributes = {name: np.array(numbers, np.int64) for name, numbers in lists.items()}
    out = call(*arrays, axis=np.int64(axis), reverse=np.bool_(reverse), **attributes)
    return list(out)[: len(results)]


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
    numbers, starts = of_starts.split(operands)
    wide = accumulator(
        functools.reduce(jnp.promote_types, [number.dtype for number in numbers], dtype)
    )
    a, x, *initial = (cast(number, wide) for number in numbers)
    h, state = pure.scan(a, x, initial[0] if initial else None, axis, reverse, starts)
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
        return sharding.lower(runs[platforms[0]], ctx, operands, params)

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
    for price in probe.lost():
        internals.warn_once(f"scanlib's results are right, but {price}")
    return True


_register(scan_p, _call_forward, _scan_by_jax)
_register(backward_p, _call_backward, backward_by_scan)
mlir.register_lowering(tangent_p, mlir.lower_fun(tangent_by_scan, multiple_results=True))
