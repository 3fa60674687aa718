"""JAX: immutable arrays, traced programs, autodiff of every order.

The recurrence is three primitives (`primitives`) with all of JAX's rules; how they run is decided where a program
is lowered (`lowering`, `sharding`, `pure`). `arguments` turns what is given into their operands.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from scanlib import gpu, native
from scanlib.backends.jax import autodiff as _rules  # noqa: F401  registered by being imported
from scanlib.backends.jax import functions, lowering, primitives, probe, sharding
from scanlib.backends.jax import starts as of_starts
from scanlib.backends.jax.arguments import (
    Operands,
    as_arrays,
    checked_offsets,
    common_dtype,
    concrete,
    numbers_as,
    operands_of,
    pad,
    plain_numbers,
    shapes,
    starts_of,
    unpad,
)
from scanlib.backends.jax.arithmetic import accumulator, sum_to
from scanlib.backends.jax.internals import inlined, spec_of
from scanlib.call import Call, axis_index, reduced_axes, resolve_vjp
from scanlib.errors import DeviceError, OutputError
from scanlib.plan import Explanation

__all__ = ["explain", "functions", "linear_recurrence", "linear_recurrence_vjp", "platform_of"]

Array = jax.Array


class ImmutableError(OutputError, TypeError):
    """An `out` for arrays that cannot be written."""


def linear_recurrence(
    a: Any,
    x: Any,
    h0: Any,
    axis: Any,
    reverse: bool,
    return_final: bool,
    out: Any,
    reset: Any = None,
    offsets: Any = None,
    *,
    pure: bool = False,
) -> Array | tuple[Array, Array]:
    """`pure=True` takes the path of other platforms, in JAX operations alone."""
    if out is not None:
        raise ImmutableError(
            "out was given, but JAX arrays cannot be written. Leave it out; to let the result take over the memory of "
            "x, donate x to the surrounding program: jax.jit(f, donate_argnums=...)."
        )
    if type(axis) is not int:
        axis = axis_index(axis)
    run = _compiled_forward(axis, bool(reverse), bool(return_final), pure)
    if reset is offsets is None:
        return _placed(run, *plain_numbers(a=a, x=x, h0=h0))
    offsets = checked_offsets(offsets, axis, a, x)
    return _placed(run, *plain_numbers(a=a, x=x, h0=h0), reset, offsets)


def linear_recurrence_vjp(
    grad_h: Any,
    a: Any,
    h: Any,
    h0: Any,
    axis: Any,
    reverse: bool,
    grad_final: Any,
    reset: Any = None,
    offsets: Any = None,
    *,
    pure: bool = False,
) -> tuple[Array, Array, Array | None]:
    axis = axis_index(axis)
    run = _compiled_vjp(axis, bool(reverse), pure)
    numbers = plain_numbers(grad_h=grad_h, a=a, h=h, h0=h0, grad_final=grad_final)
    if reset is offsets is None:
        return _placed(run, *numbers)
    return _placed(run, *numbers, reset, checked_offsets(offsets, axis, h, h))


def explain(
    a: Any,
    x: Any,
    h0: Any,
    axis: Any,
    reverse: bool,
    backward: bool,
    reset: Any = None,
    offsets: Any = None,
) -> Explanation:
    """Takes arrays, tracers and `jax.ShapeDtypeStruct`."""
    operands: list[Operands] = []
    axis = axis_index(axis)

    def trace(a: Any, x: Any, h0: Any, reset: Any, offsets: Any) -> None:
        operands.append(operands_of(a, x, h0, axis, reset, offsets))

    offsets = checked_offsets(offsets, axis, a, x)
    jax.eval_shape(trace, *plain_numbers(a=a, x=x, h0=h0), reset, offsets)
    given = operands[0]
    arrays = concrete(a, x, h0, reset)
    devices = sorted(
        {device for array in arrays for device in array.devices()}, key=lambda device: device.id
    )
    platform = platform_of(devices)
    where = (
        ", ".join(map(str, devices))
        or f"{platform} (JAX's default; the program it is traced into decides)"
    )
    notes = (
        []
        if arrays
        else ["the arguments are traced: they are compiled for that platform or another"]
    )
    if (len(devices) > 1 or not arrays) and (reason := sharding.gathered_because()):
        notes.append(reason)
    if any(_shards_time(array, given.call) for array in arrays if array is not h0):
        notes.append("the time axis is sharded: it is gathered on every device first")
    if reason := lowering.missing(platform):
        kernel = (
            "about sqrt(T) chunks of time side by side; step by step where a state is not finite"
        )
        return Explanation("jax", where, "JAX operations", kernel, (reason, *notes))
    kernel = "chosen at run time, when the extents are known"
    if all(isinstance(n, int) for n in given.call.shape):
        describe, target = native.describe, gpu.CPU
        if platform == "cuda":
            describe, target = gpu.describe, gpu.target()
        kernel = describe(_problem(given, reverse, backward, target))
    lost = probe.lost()
    return Explanation("jax", where, f"libscanlib ({platform})", kernel, (*notes, *lost))


def platform_of(devices: Sequence[Any] = ()) -> str:
    """What programs for these devices, or for the default ones, are lowered for."""
    device = devices[0] if devices else jax.local_devices()[0]
    if device.platform != "gpu":
        return device.platform
    return "rocm" if "rocm" in device.client.platform_version.lower() else "cuda"


def _problem(
    given: Operands, reverse: bool, backward: bool, target: gpu.Target
) -> native.NativeProblem:
    """The native problem of a call of known extents, or of its gradient in all of its operands."""
    call = given.call
    h = jax.ShapeDtypeStruct(call.shape, given.dtype)
    operands: dict[str, Any] = {"a": given.a, "x": given.x, "h": h}
    if given.initial is not None:
        operands["h0"] = given.initial
    if given.starts is not None:
        operands[of_starts.role(given.starts)] = given.starts
    if backward:
        operands |= {
            "grad_h": h,
            "grad_a": given.a,
            "grad_x": jax.ShapeDtypeStruct(h.shape, operands.pop("x").dtype),
        }
        if given.initial is not None:
            operands["grad_h0"] = jax.ShapeDtypeStruct(call.state_shape, given.initial.dtype)
    return lowering.problem_of(call.shape, call.axis, operands, reverse, target)


def _shards_time(array: Array, call: Call) -> bool:
    axis = call.axis - (len(call.shape) - array.ndim)
    spec = spec_of(array)
    return 0 <= axis < len(spec) and spec[axis] is not None


# ---- programs: checks run once for each signature, when it is traced


@functools.lru_cache(maxsize=256)
def _compiled_forward(
    axis: int | None, reverse: bool, return_final: bool, pure: bool
) -> Callable[..., Any]:
    def linear_recurrence(
        a: Array,
        x: Array,
        h0: Array | None,
        reset: Array | None = None,
        offsets: Array | None = None,
    ) -> Array | tuple[Array, Array]:
        given = operands_of(a, x, h0, axis, reset, offsets)
        out = primitives.scan(
            given.a,
            given.x,
            given.initial,
            given.starts,
            axis=given.call.axis,
            reverse=reverse,
            final=return_final,
            dtype=given.dtype,
            native=not pure,
        )
        return (out[0], out[1]) if return_final else out[0]

    return inlined(linear_recurrence)


@functools.lru_cache(maxsize=256)
def _compiled_vjp(axis: int | None, reverse: bool, pure: bool) -> Callable[..., Any]:
    def linear_recurrence_vjp(
        grad_h: Array,
        a: Array,
        h: Array,
        h0: Array | None,
        grad_final: Array | None,
        reset: Array | None = None,
        offsets: Array | None = None,
    ) -> tuple[Array, Array, Array | None]:
        named = as_arrays(grad_h=grad_h, a=a, h=h, h0=h0, grad_final=grad_final)
        call = resolve_vjp(*shapes(*named.values()), axis, *shapes(reset, offsets))
        given = numbers_as(common_dtype(named), named)
        full: dict[str, Any] = {
            name: value if value is None else pad(value, len(call.shape_of(name)))
            for name, value in given.items()
        }
        state, state_shape = full["h0"], call.state_shape
        if state is not None and state.shape != state_shape:
            # Its gradient is a sum, whose terms have the dtype that it has here.
            full["h0"] = state.astype(accumulator(state.dtype))
        grad_a, grad_x, *grad_h0 = primitives.backward(
            full["a"],
            full["h"],
            full["grad_h"],
            full["h0"],
            full["grad_final"],
            starts_of(reset, offsets, call),
            axis=call.axis,
            reverse=reverse,
            x_dtype=full["grad_h"].dtype,
            summed=reduced_axes(full["a"].shape, call.shape),
            native=not pure,
        )
        grad_a = unpad(grad_a, named["a"])
        if h0 is None:
            return grad_a, grad_x, None
        total = sum_to(grad_h0[0], state.shape).astype(state.dtype)
        return grad_a, grad_x, unpad(total, named["h0"])

    return inlined(linear_recurrence_vjp)


def _placed(run: Callable[..., Any], *values: Any) -> Any:
    """Run on the arrays' device; where they are on several, say so in scanlib's terms."""
    try:
        return run(*values)
    except ValueError:
        places = {frozenset(array.devices()) for array in concrete(*values) if array.committed}
        if len(places) < 2:
            raise
        given = " and ".join(sorted(", ".join(sorted(map(str, place))) for place in places))
        raise DeviceError(
            f"The arrays are on different devices: {given}. Move them to one with jax.device_put."
        ) from None
