"""The loop over steps of `scanlib.backends.standard`: forward and backward, of one sequence for each lane."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scanlib.backends.standard_arguments import Arguments, shape_of
from scanlib.call import Call, Shape, reduced_axes
from scanlib.roles import INITIAL

#: Steps between two stacks: long enough to make their cost small, short enough to keep unfolded operands so.
BLOCK = 256


def forward(given: Arguments, call: Call, reverse: bool) -> tuple[Any, Any]:
    xp, length = given.xp, call.shape[call.axis]
    a, x = (_time_first(given, call, given.arrays[name]) for name in ("a", "x"))
    reset = _resets(given, call)
    state = _initial(given, call, INITIAL)
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


def backward(given: Arguments, call: Call, reverse: bool) -> tuple[Any, Any, Any]:
    xp, arrays, length = given.xp, given.arrays, call.shape[call.axis]
    a, h, grad_h = (_time_first(given, call, arrays[name]) for name in ("a", "h", "grad_h"))
    initial = _initial(given, call, INITIAL)
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
        x_blocks.append(cast(xp, grads, arrays["grad_h"].dtype))
        earlier = _earlier_states(given, h, initial, start, stop, reverse)
        products = grads * _conj(xp, earlier)
        if reset is not None:
            nothing = xp.zeros((), dtype=products.dtype, device=given.device)
            cut = reset if reset.shape[0] == 1 else reset[start:stop, ...]
            products = xp.where(cut, nothing, products)
        part = _sum(given, products, time_axis + others)
        if time_axis:
            grad_a = part if grad_a is None else grad_a + part
        else:
            a_blocks.append(cast(xp, part, arrays["a"].dtype))
    grad_x = _join(given, call, x_blocks, not reverse, arrays["grad_h"].dtype)
    if a_blocks:
        grad_a = xp.concat(a_blocks if reverse else a_blocks[::-1], axis=0)
    grad_a = cast(
        xp, xp.zeros((), device=given.device) if grad_a is None else grad_a, arrays["a"].dtype
    )
    grad_a = _fold(given, call, grad_a, shape_of(arrays["a"]))  # type: ignore[arg-type]
    if arrays[INITIAL] is None:
        return grad_a, grad_x, None
    if a_later is not None:
        grad = _unless(xp, reset, later, a_later * grad, xp.zeros_like(grad))
    shape = shape_of(arrays[INITIAL])
    grad = _sum(given, grad, reduced_axes(shape, call.state_shape))  # type: ignore[arg-type]
    return grad_a, grad_x, _copy(xp, xp.reshape(grad, shape), arrays[INITIAL].dtype)


def _resets(given: Arguments, call: Call) -> Any:
    """Where sequences start, time first, or None."""
    reset = given.arrays.get("reset")
    return None if reset is None else _time_first(given, call, reset)


def _unless(xp: Any, reset: Any, t: int | None, value: Any, start: Any) -> Any:
    """A value, or `start` where a sequence starts at step t."""
    if reset is None or t is None:
        return value
    return xp.where(reset[0 if reset.shape[0] == 1 else t, ...], start, value)


def _earlier_states(
    given: Arguments, h: Any, initial: Any, start: int, stop: int, reverse: bool
) -> Any:
    """The states that entered steps `start` to `stop`: `h` one step earlier in the direction of the recurrence."""
    xp, first = given.xp, initial[None, ...]
    if reverse:
        states = cast(xp, h[start + 1 : min(stop + 1, h.shape[0]), ...], given.compute)
        return xp.concat([states, first], axis=0) if stop == h.shape[0] else states
    states = cast(xp, h[max(start - 1, 0) : stop - 1, ...], given.compute)
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
        return [cast(given.xp, array[0, ...], given.compute)] * (stop - start)
    block = cast(given.xp, array[start:stop, ...], given.compute)
    return [block[t, ...] for t in range(stop - start)]


def _initial(given: Arguments, call: Call, name: str) -> Any:
    state = given.arrays[name]
    if state is None:
        return given.xp.zeros(call.state_shape, dtype=given.compute, device=given.device)
    return given.xp.broadcast_to(cast(given.xp, state, given.compute), call.state_shape)


def _stack(xp: Any, rows: list[Any], reverse: bool, dtype: Any) -> Any:
    return cast(xp, xp.stack(rows[::-1] if reverse else rows, axis=0), dtype)


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


def cast(xp: Any, array: Any, dtype: Any) -> Any:
    if array.dtype == dtype:
        return array
    if xp.isdtype(array.dtype, "complex floating") and not xp.isdtype(dtype, "complex floating"):
        array = xp.real(
            array
        )  # the gradient of a real input: the real part of what a complex one would get
    return xp.astype(array, dtype, copy=False)


def _copy(xp: Any, array: Any, dtype: Any) -> Any:
    """`array` in memory of its own: what is returned never shares any with an argument or another result."""
    return xp.asarray(cast(xp, array, dtype), copy=True)


def _conj(xp: Any, array: Any) -> Any:
    return xp.conj(array) if xp.isdtype(array.dtype, "complex floating") else array
