"""NumPy: arrays in the CPU's memory, no autodiff, mutable outputs."""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any, NamedTuple

import numpy as np

from scanlib import native
from scanlib.dispatch import Explanation, is_scalar
from scanlib.errors import DTypeError
from scanlib.overlap import check_out, numpy_memory
from scanlib.problem import (
    Problem,
    Shape,
    axis_index,
    broadcast_strides,
    dtype_code,
    reduced_axes,
    resolve,
    resolve_vjp,
    state_strides,
)

Array = np.ndarray[Any, np.dtype[Any]]
#: shape, strides in bytes and dtype: all a plan depends on
Signature = tuple[Shape, Shape, np.dtype[Any]]


class Plan(NamedTuple):
    """What is worked out once for arrays of the same shapes, strides and dtypes."""

    resolved: Problem
    native: native.NativeProblem
    address: int
    dtype: np.dtype[Any]
    order: tuple[int, ...] | None  # axes from far to near in memory, None where that is C order


def linear_recurrence(
    a: Any, x: Any, h0: Any, axis: Any, reverse: bool, return_final: bool, out: Any
) -> Array | tuple[Array, Array]:
    if type(a) is not np.ndarray or type(x) is not np.ndarray or h0 is not None:
        a, x, h0 = _arrays(a, x, h0)
    if type(axis) is not int:
        axis = axis_index(axis)
    if out is not None:
        return _into(a, x, h0, axis, reverse, return_final, out)
    try:
        # fmt: off
        plan = _forward_plan(a.shape, a.strides, a.dtype, x.shape, x.strides, x.dtype,
                             None if h0 is None else _signature(h0), axis, reverse, return_final, None)
        # fmt: on
        h = np.empty(plan.resolved.shape, plan.dtype) if plan.order is None else _empty(plan)
        return _run(plan, a, x, h0, h, return_final)
    except (native.RankError, native.AlignmentError):
        resolved = resolve(a.shape, x.shape, None if h0 is None else h0.shape, axis)
        given = _copies(resolved, _present(a, x, h0))
        return linear_recurrence(
            given["a"], given["x"], given.get("h0"), axis, reverse, return_final, out
        )


def linear_recurrence_vjp(
    grad_h: Any, a: Any, h: Any, h0: Any, axis: Any, reverse: bool, grad_final: Any
) -> tuple[Array, Array, Array | None]:
    a, grad_h, _ = _arrays(a, grad_h, None)
    h = np.asarray(h)
    if is_scalar(h0):
        h0 = _number(h0, h.dtype)
    arrays = {"a": a, "h": h, "h0": h0, "grad_h": grad_h, "grad_final": grad_final}
    given = {role: np.asarray(array) for role, array in arrays.items() if array is not None}
    shapes = (given[role].shape if role in given else None for role in ("h0", "grad_final"))
    resolved = resolve_vjp(grad_h.shape, a.shape, h.shape, *shapes, axis_index(axis))
    _result_dtype({role: array.dtype for role, array in given.items()})
    try:
        grads = _backward(resolved, reverse, given)
    except (native.RankError, native.AlignmentError):
        given = _copies(resolved, given)
        grads = _backward(resolved, reverse, given)
    grad_a, grad_x, grad_h0 = grads
    state = None if grad_h0 is None else sum_to(grad_h0, np.shape(h0))
    return sum_to(grad_a, a.shape), grad_x, state


def explain(a: Any, x: Any, h0: Any, axis: Any, reverse: bool) -> Explanation:
    given = _present(*_arrays(a, x, h0))
    state = given.get("h0")
    shapes = given["a"].shape, given["x"].shape, None if state is None else state.shape
    resolved = resolve(*shapes, axis_index(axis))
    awkward = {name: reason for name, array in given.items() if (reason := _awkward(array))}
    notes = [f"{name} is copied: {reason}" for name, reason in awkward.items()]
    if awkward:
        given = _copies(resolved, given)
    try:
        plan = _plan_of(given, resolved.axis, reverse)
    except native.RankError:
        notes.append(
            f"all operands are copied: more than {native.MAX_OUTER} axes are left after merging"
        )
        plan = _plan_of(_copies(resolved, given), resolved.axis, reverse)
    return Explanation(
        "numpy", "cpu", "libscanlib (cpu)", native.describe(plan.native), tuple(notes)
    )


def _plan_of(given: dict[str, Array], axis: int, reverse: bool) -> Plan:
    state = _signature(given["h0"]) if "h0" in given else None
    signatures = *_signature(given["a"]), *_signature(given["x"]), state
    return _forward_plan(*signatures, axis, reverse, False, None)


def sum_to(array: Array, shape: Shape) -> Array:
    """Sum `array` over the axes along which `shape` was broadcast to it."""
    axes = reduced_axes(shape, array.shape)
    return array.sum(axis=axes, keepdims=True).reshape(shape) if axes else array


# ---- from arguments to arrays


def _arrays(a: Any, x: Any, h0: Any) -> tuple[Array, Array, Array | None]:
    """Plain arrays: subclasses as np.asarray sees them, Python numbers in the dtype NumPy promotes them to."""
    given = {"a": a, "x": x} | ({} if h0 is None else {"h0": h0})
    arrays = {name: np.asarray(value) for name, value in given.items() if not is_scalar(value)}
    if len(arrays) < len(given):
        like = _result_dtype({name: array.dtype for name, array in arrays.items()})
        arrays |= {name: _number(value, like) for name, value in given.items() if is_scalar(value)}
    return arrays["a"], arrays["x"], arrays.get("h0")


def _present(a: Array, x: Array, h0: Array | None) -> dict[str, Array]:
    return {"a": a, "x": x} if h0 is None else {"a": a, "x": x, "h0": h0}


def _number(value: complex, like: np.dtype[Any]) -> Array:
    """A Python number as an array: of the dtype it meets, made complex where the number is (NEP 50)."""
    return np.asarray(
        value, np.result_type(like, np.complex64) if isinstance(value, complex) else like
    )


def _native_order(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype if dtype.isnative else dtype.newbyteorder("=")


def _signature(array: Array) -> Signature:
    return array.shape, array.strides, array.dtype


def _awkward(array: Array) -> str:
    """Why libscanlib cannot read this memory as it lies; empty if it can."""
    if not array.dtype.isnative:
        return "its byte order is not the machine's"
    if array.ctypes.data % _alignment(array.dtype):
        return "its address is not a multiple of its element size"
    if any(stride % array.itemsize for stride in array.strides):
        return "its strides are no multiples of its element size"
    return ""


def _alignment(dtype: np.dtype[Any]) -> int:
    return dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize


def _copies(resolved: Problem, given: dict[str, Array]) -> dict[str, Array]:
    """Operands libscanlib can walk: those it cannot read copied, or where it can read all, all at full size."""
    if any(map(_awkward, given.values())):
        return {
            name: array.astype(_native_order(array.dtype), order="C") if _awkward(array) else array
            for name, array in given.items()
        }
    shapes = {name: resolved.state_shape if name in _STATES else resolved.shape for name in given}
    return {
        name: np.array(np.broadcast_to(array, shapes[name]), order="C")
        for name, array in given.items()
    }


# ---- plans


def _element_strides(signature: Signature) -> Shape:
    _, strides, dtype = signature
    if not dtype.isnative or any(stride % dtype.itemsize for stride in strides):
        raise native.AlignmentError(
            f"an array of dtype {dtype} and strides {strides} has to be copied first"
        )
    return tuple(stride // dtype.itemsize for stride in strides)


def _operand(
    name: str, signature: Signature, target: Problem, *, state: bool = False
) -> native.Operand:
    shape, _, dtype = signature
    code = dtype_code(dtype.name, name)
    strides = _element_strides(signature)
    return code, state_strides(shape, strides, target) if state else broadcast_strides(
        shape, strides, target.shape
    )


def _result_dtype(given: dict[str, np.dtype[Any]]) -> np.dtype[Any]:
    for name, dtype in given.items():
        dtype_code(dtype.name, name)
    try:
        return np.result_type(*given.values())
    except TypeError as error:
        raise DTypeError(
            f"NumPy has no dtype that holds all inputs: {error}. Convert them to one dtype."
        ) from None


@functools.lru_cache(maxsize=1024)
def _forward_plan(
    a_shape: Shape,
    a_strides: Shape,
    a_dtype: np.dtype[Any],
    x_shape: Shape,
    x_strides: Shape,
    x_dtype: np.dtype[Any],
    h0: Signature | None,
    axis: int | None,
    reverse: bool,
    return_final: bool,
    out: Signature | None,
) -> Plan:
    a, x = (a_shape, a_strides, a_dtype), (x_shape, x_strides, x_dtype)
    resolved = resolve(a_shape, x_shape, None if h0 is None else h0[0], axis)
    dtype = _result_dtype({"a": a_dtype, "x": x_dtype} | ({} if h0 is None else {"h0": h0[2]}))
    order = (
        None
        if out is not None
        else _memory_order(resolved.shape, x if x_shape == resolved.shape else a)
    )
    h = out or _dense(resolved.shape, order, dtype)
    operands = {
        "a": _operand("a", a, resolved),
        "x": _operand("x", x, resolved),
        "h": _operand("out", h, resolved),
    }
    if h0 is not None:
        operands["h0"] = _operand("h0", h0, resolved, state=True)
    if return_final:
        operands["final"] = _operand(
            "final", _dense(resolved.state_shape, None, dtype), resolved, state=True
        )
    problem = native.prepare(
        resolved.shape, resolved.axis, operands, reverse=reverse, holder_offset=_HOLDER_OFFSET
    )
    return Plan(resolved, problem, problem.address, dtype, order)


@functools.lru_cache(maxsize=1024)
def _backward_problem(
    resolved: Problem, reverse: bool, given: tuple[tuple[str, Signature], ...]
) -> native.NativeProblem:
    operands = {
        role: _operand(role, signature, resolved, state=role in _STATES)
        for role, signature in given
    }
    return native.prepare(
        resolved.shape,
        resolved.axis,
        operands,
        reverse=reverse,
        conjugate=True,
        holder_offset=_HOLDER_OFFSET,
    )


def _memory_order(shape: Shape, like: Signature) -> tuple[int, ...] | None:
    """The axes as `like` has them in memory, far to near (NumPy's order "K"); None for C order."""
    if like[0] != shape:
        return None
    order = tuple(
        sorted(range(len(shape)), key=lambda axis: -abs(like[1][axis]) if shape[axis] > 1 else 0)
    )
    significant = [axis for axis in order if shape[axis] > 1]
    return None if significant == sorted(significant) else order


def _dense(shape: Shape, order: tuple[int, ...] | None, dtype: np.dtype[Any]) -> Signature:
    strides, step = [0] * len(shape), dtype.itemsize
    for axis in reversed(order or range(len(shape))):
        strides[axis] = step
        step *= max(shape[axis], 1)
    return shape, tuple(strides), dtype


def _empty(plan: Plan) -> Array:
    order = plan.order or ()
    flat = np.empty([plan.resolved.shape[axis] for axis in order], plan.dtype)
    return flat.transpose(np.argsort(order))


# ---- running


def _run(plan: Plan, a: Array, x: Array, h0: Array | None, h: Array, return_final: bool) -> Any:
    final = np.empty(plan.resolved.state_shape, plan.dtype) if return_final else None
    if _HOLDER_OFFSET:
        code = _forward(
            plan.address,
            id(a),
            id(x),
            0 if h0 is None else id(h0),
            id(h),
            0 if final is None else id(final),
        )
    else:
        code = _forward(plan.address, *(_address(array) for array in (a, x, h0, h, final)))
    if code:
        native.check(code)
    return h if final is None else (h, final)


def _into(
    a: Array,
    x: Array,
    h0: Array | None,
    axis: int | None,
    reverse: bool,
    return_final: bool,
    out: Any,
) -> Any:
    """Write the result to `out`: straight, or where libscanlib cannot walk an operand or `out`, by a copy."""
    resolved = resolve(a.shape, x.shape, None if h0 is None else h0.shape, axis)
    dtype = _result_dtype({"a": a.dtype, "x": x.dtype} | ({} if h0 is None else {"h0": h0.dtype}))
    target = np.asarray(out)
    memory = {
        "a": numpy_memory(a),
        "x": numpy_memory(x),
        "h0": None if h0 is None else numpy_memory(h0),
    }
    check_out(numpy_memory(target), resolved.shape, dtype.name, **memory)
    state = None if h0 is None else _signature(h0)
    try:
        plan = _forward_plan(
            *_signature(a), *_signature(x), state, axis, reverse, return_final, _signature(target)
        )
        result = _run(plan, a, x, h0, target, return_final)
    except (native.RankError, native.AlignmentError):
        result = linear_recurrence(a, x, h0, axis, reverse, return_final, None)
        np.copyto(target, result[0] if return_final else result)
    return (out, result[1]) if return_final else out


def _backward(
    resolved: Problem, reverse: bool, given: dict[str, Array]
) -> tuple[Array, Array, Array | None]:
    arrays = dict(given)
    arrays["grad_a"] = np.empty(given["a"].shape, _native_order(given["a"].dtype))
    arrays["grad_x"] = np.empty(resolved.shape, _native_order(given["grad_h"].dtype))
    if "h0" in given:
        arrays["grad_h0"] = np.empty(resolved.state_shape, _native_order(given["h0"].dtype))
    problem = _backward_problem(
        resolved, reverse, tuple((k, _signature(v)) for k, v in arrays.items())
    )
    native.backward(problem, *(_address(arrays.get(role)) for role in _BACKWARD))
    return arrays["grad_a"], arrays["grad_x"], arrays.get("grad_h0")


_STATES = ("h0", "final", "grad_final", "grad_h0")
_BACKWARD = ("a", "h", "h0", "grad_h", "grad_final", "grad_a", "grad_x", "grad_h0")


def _find_holder_offset() -> int:
    """Where a NumPy array object keeps its data pointer, or 0 where that cannot be relied on.

    The C struct PyArrayObject_fields, part of NumPy's public ABI, starts with the object's head and the data pointer.
    Letting libscanlib read it there saves most of what `array.ctypes.data` costs, which for tiny arrays is more than
    the recurrence. It is checked on two arrays before it is used.
    """
    if sys.implementation.name != "cpython":
        return 0
    offset = object.__basicsize__
    for array in (np.zeros(3), np.zeros((2, 2), np.float32)[1:]):
        if ctypes.c_void_p.from_address(id(array) + offset).value != array.ctypes.data:
            return 0
    return offset


_HOLDER_OFFSET = _find_holder_offset()


def _address(array: Array | None) -> int:
    """What libscanlib is given for an array: the object where it can read the pointer in it, else the pointer."""
    if array is None:
        return 0
    return id(array) if _HOLDER_OFFSET else array.ctypes.data


_forward = native.library().scanlib_cpu_forward
