"""Any other array-API library: the recurrence in nothing but the functions of the standard.

Time runs in a serial loop of two operations a step, each over all other axes at once. That is slow for few, long
sequences, and exact: a parallel combine would multiply products of `a` with states and so make NaN (Inf * 0) where
the recurrence has none. Time is cut into blocks, so that an operand is converted and a repeated one unfolded a block
at a time. No value of an array is ever asked for, so lazy libraries only record the work.
"""

from __future__ import annotations

from typing import Any

import array_api_compat

from scanlib.backends import array_functions as functions
from scanlib.backends.standard_arguments import (
    Arguments,
    dtype_name,
    gather,
    namespace_of,
    offsets_of,
    resolve_forward,
    shape_of,
    type_name,
    with_reset,
)
from scanlib.backends.standard_loop import BLOCK, backward, forward
from scanlib.backends.standard_packed import packed_backward, packed_forward
from scanlib.call import Call, axis_index, resolve_vjp
from scanlib.errors import ArrayKindError, DeviceError, OutputError
from scanlib.overlap import check_out_type
from scanlib.plan import Explanation

__all__ = ["explain", "functions", "linear_recurrence", "linear_recurrence_vjp"]


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
) -> Any:
    given = with_reset(gather(a=a, x=x, h0=h0), reset)
    offsets = offsets_of(given, offsets)
    call = resolve_forward(given, axis, offsets)
    if out is not None:
        _check_out(given, call, out, a=a, h0=h0)
    if offsets is None:
        h, final = forward(given, call, reverse)
    else:
        h, final = packed_forward(given, call, reverse, offsets)
    if out is not None:
        h = _write(out, h)
    return (h, final) if return_final else h


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
) -> tuple[Any, Any, Any]:
    given = with_reset(gather(a=a, grad_h=grad_h, h=h, h0=h0, grad_final=grad_final), reset)
    offsets = offsets_of(given, offsets)
    names = ("grad_h", "a", "h", "h0", "grad_final")
    shapes = (shape_of(given.arrays[name]) for name in names)
    starts = shape_of(given.arrays["reset"]), shape_of(offsets)
    call = resolve_vjp(*shapes, axis_index(axis), *starts)
    if offsets is None:
        return backward(given, call, reverse)
    return packed_backward(given, call, reverse, offsets)


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
    given = with_reset(gather(a=a, x=x, h0=h0), reset)
    offsets = offsets_of(given, offsets)
    call = resolve_forward(given, axis, offsets)
    del backward  # walks time in the same way, from the other end
    library = given.xp.__name__.removeprefix("array_api_compat.")
    steps = call.shape[call.axis]
    slow = (
        "slower than libscanlib, which reads the memory of NumPy, PyTorch and JAX arrays only: "
        f"{steps} steps are {2 * steps} calls into {library}. Convert to one of those (from_dlpack) if that matters."
    )
    notes = [slow]
    if given.compute != given.result:
        notes.append(
            f"the arithmetic is in {dtype_name(given.xp, given.compute)}, converted {BLOCK} steps at a time"
        )
    kernel = f"serial over {steps} steps in blocks of {BLOCK}, all other axes at once"
    return Explanation(
        library, str(given.device), "array-API standard functions", kernel, tuple(notes)
    )


# ---- out


def _check_out(given: Arguments, call: Call, out: Any, **operands: Any) -> None:
    """Raise unless `out` can take the result. Views are not seen through: the standard has no addresses."""
    if namespace_of({"out": out}) != given.xp:
        raise ArrayKindError(
            f"out is a {type_name(out)}, not an array of {given.xp.__name__} as the inputs are."
        )
    check_out_type(
        tuple(out.shape),
        dtype_name(given.xp, out.dtype),
        call.shape,
        dtype_name(given.xp, given.result),
    )
    if array_api_compat.device(out) != given.device:
        raise DeviceError(
            f"out is on {array_api_compat.device(out)}, but the inputs are on {given.device}. Move it."
        )
    for name, operand in operands.items():
        if out is operand:
            raise OutputError(
                f"out is {name} itself; only x may be overwritten. Give memory of its own."
            )
    if not array_api_compat.is_writeable_array(out):
        raise ArrayKindError(f"out is a {type_name(out)}, which cannot be written. Leave out away.")


def _write(out: Any, h: Any) -> Any:
    try:
        out[...] = h
    except Exception as error:
        raise OutputError(
            f"out, a {type_name(out)}, cannot be written: {error} Leave out away."
        ) from error
    return out
