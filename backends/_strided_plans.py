"""From shapes, strides and dtypes as NumPy has them to prepared problems: what is worked out once for arrays alike."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from scanlib import native
from scanlib.errors import DTypeError
from scanlib.problem import (
    Problem,
    Shape,
    broadcast_strides,
    dtype_code,
    resolve,
    state_strides,
)

#: shape, strides in bytes and dtype: all a plan depends on
Signature = tuple[Shape, Shape, np.dtype[Any]]

STATES = ("h0", "final", "grad_final", "grad_h0")


class Plan(NamedTuple):
    """What is worked out once for arrays of the same shapes, strides and dtypes."""

    resolved: Problem
    native: native.NativeProblem
    address: int
    dtype: np.dtype[Any]
    order: tuple[int, ...] | None  # axes from far to near in memory, None where that is C order


@functools.lru_cache(maxsize=1024)
def forward_plan(
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
    holder_offset: int,
) -> Plan:
    a, x = (a_shape, a_strides, a_dtype), (x_shape, x_strides, x_dtype)
    resolved = resolve(a_shape, x_shape, None if h0 is None else h0[0], axis)
    dtype = result_dtype({"a": a_dtype, "x": x_dtype} | ({} if h0 is None else {"h0": h0[2]}))
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
        resolved.shape, resolved.axis, operands, reverse=reverse, holder_offset=holder_offset
    )
    return Plan(resolved, problem, problem.address, dtype, order)


@functools.lru_cache(maxsize=1024)
def backward_problem(
    resolved: Problem,
    reverse: bool,
    given: tuple[tuple[str, Signature], ...],
    holder_offset: int,
) -> native.NativeProblem:
    operands = {
        role: _operand(role, signature, resolved, state=role in STATES) for role, signature in given
    }
    return native.prepare(
        resolved.shape,
        resolved.axis,
        operands,
        reverse=reverse,
        conjugate=True,
        holder_offset=holder_offset,
    )


def result_dtype(given: dict[str, np.dtype[Any]]) -> np.dtype[Any]:
    """The dtype NumPy promotes to; `DTypeError` where there is none or scanlib does not compute in one of them."""
    for name, dtype in given.items():
        dtype_code(dtype.name, name)
    try:
        return np.result_type(*given.values())
    except TypeError as error:
        raise DTypeError(
            f"NumPy has no dtype that holds all inputs: {error}. Convert them to one dtype."
        ) from None


def native_order(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in the machine's byte order."""
    return dtype if dtype.isnative else dtype.newbyteorder("=")


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
