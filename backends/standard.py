"""Any other array-API library: the recurrence in nothing but the functions of the standard.

Time runs in a serial loop of two operations a step, each over all other axes at once. That is slow for few, long
sequences, and exact: a parallel combine would multiply products of `a` with states and so make NaN (Inf * 0) where
the recurrence has none. Time is cut into blocks, so that an operand is converted and a repeated one unfolded a block
at a time. No value of an array is ever asked for, so lazy libraries only record the work.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import array_api_compat

from scanlib.backends import array_functions as functions
from scanlib.backends.standard_arguments import (
    Arguments,
    dtype_name,
    gather,
    namespace_of,
    numbers_of,
    resolve_forward,
    shape_of,
    shape_of_offsets,
    type_name,
    with_reset,
)
from scanlib.call import (
    Call,
    Shape,
    axis_index,
    call_of,
    reduced_axes,
    resolve_vjp,
)
from scanlib.errors import ArrayKindError, DeviceError, OutputError
from scanlib.overlap import check_out_type
from scanlib.plan import Explanation

__all__ = ["explain", "functions", "linear_recurrence", "linear_recurrence_vjp"]

#: Steps between two stacks: long enough to make their cost small, short enough to keep unfolded operands so.
BLOCK = 256


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
    call = resolve_forward(given, axis, offsets)
    if out is not None:
        _check_out(given, call, out, a=a, h0=h0)
    if offsets is None:
        h, final = _forward(given, call, reverse)
    else:
        h, final = _packed_forward(given, call, reverse, offsets)
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
    names = ("grad_h", "a", "h", "h0", "grad_final")
    shapes = (shape_of(given.arrays[name]) for name in names)
    starts = shape_of(given.arrays["reset"]), shape_of_offsets(offsets)
    call = resolve_vjp(*shapes, axis_index(axis), *starts)
    if offsets is None:
        return _backward(given, call, reverse)
    return _packed_backward(given, call, reverse, offsets)


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


# ---- the recurrence


def _forward(given: Arguments, call: Call, reverse: bool) -> tuple[Any, Any]:
    xp, length = given.xp, call.shape[call.axis]
    a, x = (_time_first(given, call, given.arrays[name]) for name in ("a", "x"))
    reset = _resets(given, call)
    state = _initial(given, call, "h0")
    blocks = []
    for start, stop in _spans(length, reverse):
        rows = []
        a_rows, x_rows = _rows(given, a, start, stop), _rows(given, x, start, stop)
        for t in _order(stop - start, reverse):
            state = _unless(xp, reset, start + t, a_rows[t] * state + x_rows[t], x_rows[t])
            rows.append(state)
        blocks.append(_stack(xp, rows, reverse, given.result))
    h = _join(given, call, blocks, reverse, given.result)
    return h, _copy(xp, state, given.result)


def _backward(given: Arguments, call: Call, reverse: bool) -> tuple[Any, Any, Any]:
    xp, arrays, length = given.xp, given.arrays, call.shape[call.axis]
    a, h, grad_h = (_time_first(given, call, arrays[name]) for name in ("a", "h", "grad_h"))
    h0 = _initial(given, call, "h0")
    axes = reduced_axes(shape_of(arrays["a"]), call.shape)  # type: ignore[arg-type]
    time_axis = (0,) if call.axis in axes else ()
    others = tuple(axis + (axis < call.axis) for axis in axes if axis != call.axis)
    reset = _resets(given, call)
    grad, grad_a, a_later = _initial(given, call, "grad_final"), None, None
    later = None  # the step after this one in the direction of the recurrence
    a_blocks, x_blocks = [], []
    for start, stop in _spans(length, not reverse):
        rows = []
        a_rows, g_rows = _rows(given, a, start, stop), _rows(given, grad_h, start, stop)
        for t in _order(stop - start, not reverse):
            carried = g_rows[t] + (grad if a_later is None else a_later * grad)
            grad = _unless(xp, reset, later, carried, g_rows[t])
            a_later, later = _conj(xp, a_rows[t]), start + t
            rows.append(grad)
        grads = _stack(xp, rows, not reverse, given.compute)
        x_blocks.append(_cast(xp, grads, arrays["grad_h"].dtype))
        earlier = _earlier_states(given, h, h0, start, stop, reverse)
        products = grads * _conj(xp, earlier)
        if reset is not None:
            nothing = xp.zeros((), dtype=products.dtype, device=given.device)
            cut = reset if reset.shape[0] == 1 else reset[start:stop, ...]
            products = xp.where(cut, nothing, products)
        part = _sum(given, products, time_axis + others)
        if time_axis:
            grad_a = part if grad_a is None else grad_a + part
        else:
            a_blocks.append(_cast(xp, part, arrays["a"].dtype))
    grad_x = _join(given, call, x_blocks, not reverse, arrays["grad_h"].dtype)
    if a_blocks:
        grad_a = xp.concat(a_blocks if reverse else a_blocks[::-1], axis=0)
    grad_a = _cast(
        xp, xp.zeros((), device=given.device) if grad_a is None else grad_a, arrays["a"].dtype
    )
    grad_a = _fold(given, call, grad_a, shape_of(arrays["a"]))  # type: ignore[arg-type]
    if arrays["h0"] is None:
        return grad_a, grad_x, None
    if a_later is not None:
        grad = _unless(xp, reset, later, a_later * grad, xp.zeros_like(grad))
    h0_shape = shape_of(arrays["h0"])
    grad = _sum(given, grad, reduced_axes(h0_shape, call.state_shape))  # type: ignore[arg-type]
    return grad_a, grad_x, _copy(xp, xp.reshape(grad, h0_shape), arrays["h0"].dtype)


def _packed_forward(given: Arguments, call: Call, reverse: bool, offsets: Any) -> tuple[Any, Any]:
    """One sequence after the other."""
    xp, axis, hs, finals = given.xp, call.axis - len(call.shape), [], []
    for part, one in _parts(given, call, offsets):
        h, final = _forward(part, one, reverse)
        hs.append(h)
        finals.append(final)
    if not hs:
        empty = xp.zeros(call.shape, dtype=given.result, device=given.device)
        return empty, xp.zeros(call.state_shape, dtype=given.result, device=given.device)
    return xp.concat(hs, axis=axis), xp.stack(finals, axis=call.axis)


def _packed_backward(
    given: Arguments, call: Call, reverse: bool, offsets: Any
) -> tuple[Any, Any, Any]:
    xp, arrays, axis = given.xp, given.arrays, call.axis - len(call.shape)
    found = [_backward(part, one, reverse) for part, one in _parts(given, call, offsets)]
    grads_a, grads_x, grads_h0 = zip(*found, strict=True) if found else ((), (), ())

    def joined(grads: Any, like: Any, whole: bool) -> Any:
        """The gradients of all sequences: beside one another where each has its own elements, else their sum."""
        if not grads:
            return xp.zeros_like(like)
        if whole:
            return xp.concat(grads, axis=axis)
        total = xp.sum(xp.stack([_cast(xp, g, given.wide) for g in grads]), axis=0)
        return _cast(xp, xp.reshape(total, like.shape), like.dtype)

    a, h0 = arrays["a"], arrays["h0"]
    own = a.ndim >= -axis and a.shape[axis] == call.shape[call.axis] and a.shape[axis] != 1
    grad_a = joined(grads_a, a, own or (a.ndim >= -axis and len(found) == 1))
    grad_x = joined(grads_x, arrays["grad_h"], True)
    if h0 is None:
        return grad_a, grad_x, None
    if h0.ndim >= -axis and h0.shape[axis] == call.segments and found:
        return grad_a, grad_x, xp.stack(grads_h0, axis=h0.ndim + axis)
    return grad_a, grad_x, joined(grads_h0, h0, False)


def _parts(given: Arguments, call: Call, offsets: Any) -> Iterator[tuple[Arguments, Call]]:
    """Each sequence, as a call of its own."""
    axis = call.axis - len(call.shape)
    numbers = numbers_of(offsets, call.shape[call.axis])
    for i, (start, stop) in enumerate(itertools.pairwise(numbers)):
        shape = (*call.shape[: call.axis], stop - start, *call.shape[call.axis + 1 :])
        yield given.part(axis, start, stop, i), call_of(shape, call.axis)


def _resets(given: Arguments, call: Call) -> Any:
    """Where sequences start, time first, or None."""
    reset = given.arrays.get("reset")
    return None if reset is None else _time_first(given, call, reset)


def _unless(xp: Any, reset: Any, t: int | None, value: Any, start: Any) -> Any:
    """A value, or `start` where a sequence starts at step t."""
    if reset is None or t is None:
        return value
    return xp.where(reset[0 if reset.shape[0] == 1 else t, ...], start, value)


def _earlier_states(given: Arguments, h: Any, h0: Any, start: int, stop: int, reverse: bool) -> Any:
    """The states that entered steps `start` to `stop`: `h` one step earlier in the direction of the recurrence."""
    xp, first = given.xp, h0[None, ...]
    if reverse:
        states = _cast(xp, h[start + 1 : min(stop + 1, h.shape[0]), ...], given.compute)
        return xp.concat([states, first], axis=0) if stop == h.shape[0] else states
    states = _cast(xp, h[max(start - 1, 0) : stop - 1, ...], given.compute)
    return xp.concat([first, states], axis=0) if start == 0 else states


def _spans(length: int, reverse: bool) -> Iterator[tuple[int, int]]:
    """Blocks of time (start, stop), in the order in which they run."""
    starts = range(0, length, BLOCK)
    return (
        (start, min(start + BLOCK, length)) for start in (reversed(starts) if reverse else starts)
    )


def _order(length: int, reverse: bool) -> Iterator[int]:
    return reversed(range(length)) if reverse else iter(range(length))


def _time_first(given: Arguments, call: Call, array: Any) -> Any:
    """`array` with all the axes of the call, time in front; a view where the library has views."""
    array = given.xp.reshape(array, (1,) * (len(call.shape) - array.ndim) + array.shape)
    return given.xp.moveaxis(array, call.axis, 0)


def _rows(given: Arguments, array: Any, start: int, stop: int) -> list[Any]:
    """The steps from `start` to `stop`; the same one over and over where there is only one."""
    if array.shape[0] == 1:
        return [_cast(given.xp, array[0, ...], given.compute)] * (stop - start)
    block = _cast(given.xp, array[start:stop, ...], given.compute)
    return [block[t, ...] for t in range(stop - start)]


def _initial(given: Arguments, call: Call, name: str) -> Any:
    state = given.arrays[name]
    if state is None:
        return given.xp.zeros(call.state_shape, dtype=given.compute, device=given.device)
    return given.xp.broadcast_to(_cast(given.xp, state, given.compute), call.state_shape)


def _stack(xp: Any, rows: list[Any], reverse: bool, dtype: Any) -> Any:
    return _cast(xp, xp.stack(rows[::-1] if reverse else rows, axis=0), dtype)


def _join(given: Arguments, call: Call, blocks: list[Any], reverse: bool, dtype: Any) -> Any:
    if not blocks:
        return given.xp.zeros(call.shape, dtype=dtype, device=given.device)
    whole = (
        blocks[0]
        if len(blocks) == 1
        else given.xp.concat(blocks[::-1] if reverse else blocks, axis=0)
    )
    return given.xp.moveaxis(whole, 0, call.axis)


def _fold(given: Arguments, call: Call, grad: Any, shape: Shape) -> Any:
    """The gradient of `a`, time in front and already summed, in `a`'s own shape."""
    if call.shape[call.axis] == 0:
        return given.xp.zeros(shape, dtype=grad.dtype, device=given.device)
    return given.xp.reshape(given.xp.moveaxis(grad, 0, call.axis), shape)


def _sum(given: Arguments, array: Any, axes: Shape) -> Any:
    return given.xp.sum(array, axis=axes, keepdims=True, dtype=given.wide) if axes else array


def _cast(xp: Any, array: Any, dtype: Any) -> Any:
    if array.dtype == dtype:
        return array
    if xp.isdtype(array.dtype, "complex floating") and not xp.isdtype(dtype, "complex floating"):
        array = xp.real(
            array
        )  # the gradient of a real input: the real part of what a complex one would get
    return xp.astype(array, dtype, copy=False)


def _copy(xp: Any, array: Any, dtype: Any) -> Any:
    """`array` in memory of its own: what is returned never shares any with an argument or another result."""
    return xp.asarray(_cast(xp, array, dtype), copy=True)


def _conj(xp: Any, array: Any) -> Any:
    return xp.conj(array) if xp.isdtype(array.dtype, "complex floating") else array


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
