"""Whether arrays overlap in memory, and the checks of `out` that every CPU adapter shares.

Only addresses, shapes and strides are looked at; no memory is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from scanlib.call import Shape
from scanlib.errors import DTypeError, OutputError, ShapeError

# Steps that `shares_memory` spends on one question; past them it answers yes. Strides of views that slicing,
# transposing and reshaping can make are settled in far fewer.
MAX_WORK = 100_000


class Memory(NamedTuple):
    """How an array lies in memory: the address of its first element, strides in bytes, bytes an element."""

    address: int
    shape: Shape
    strides: Shape
    itemsize: int
    dtype: str = ""
    writable: bool = True


def shares_memory(first: Memory, second: Memory) -> bool:
    """Whether some byte belongs to an element of both; a question too hard to settle counts as yes."""
    if 0 in first.shape or 0 in second.shape:
        return False
    low, high = _bounds(first)
    other_low, other_high = _bounds(second)
    if high <= other_low or other_high <= low:
        return False
    try:
        return np.shares_memory(_as_array(first), _as_array(second), max_work=MAX_WORK)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def overlaps_itself(memory: Memory) -> bool:
    """Whether some byte belongs to two elements of one array; a question too hard to settle counts as yes."""
    if 0 in memory.shape:
        return False
    reach = memory.itemsize
    axes = [
        (abs(stride), n) for stride, n in zip(memory.strides, memory.shape, strict=True) if n > 1
    ]
    for stride, n in sorted(axes):
        if stride < reach:
            break
        reach += stride * (n - 1)
    else:
        return False  # every axis steps over all that the nearer ones cover
    # Two elements that coincide differ first in some axis. The axes before it can be taken as 0 for both and so can
    # the smaller of the two indices there, so it is enough to ask whether index 0 of it meets the rest of it.
    address, shape, strides, itemsize = memory[:4]
    while shape:
        row = Memory(address, shape[1:], strides[1:], itemsize)
        rest = Memory(address + strides[0], (shape[0] - 1, *shape[1:]), strides, itemsize)
        if shares_memory(row, rest):
            return True
        shape, strides = row.shape, row.strides
    return False


def same_elements(first: Memory, second: Memory) -> bool:
    """Whether both arrays are the same elements in the same order, read as the same dtype."""
    return (
        first.address == second.address
        and first.shape == second.shape
        and first.itemsize == second.itemsize
        and first.dtype == second.dtype
        and all(
            n <= 1 or stride == other
            for n, stride, other in zip(first.shape, first.strides, second.strides, strict=True)
        )
    )


def check_out_type(given_shape: Shape, given_dtype: str, shape: Shape, dtype: str) -> None:
    """Raise unless `out` has the result's shape and dtype."""
    if given_shape != shape:
        raise ShapeError(
            f"out has shape {given_shape}, but the result has shape {shape}. Give out that shape; it is not broadcast."
        )
    if given_dtype != dtype:
        raise DTypeError(
            f"out has dtype {given_dtype}, but the result has dtype {dtype}. Give out that dtype; no result is "
            "converted on its way into out."
        )


def check_out(
    out: Memory,
    shape: Shape,
    dtype: str,
    operands: Mapping[str, Memory],
) -> None:
    """Raise unless a result of `shape` and `dtype` can be written to `out` while the operands, by role, are read.

    `out` may be `x` itself, element for element. Scalars and copies made for the call are no operands here: they
    cannot overlap anything.

    Raises
    ------
    ShapeError, DTypeError
        `out` is not of the result's shape or dtype.
    OutputError
        `out` is read-only, has two elements in one place, or overlaps an operand.
    """
    check_out_type(out.shape, out.dtype, shape, dtype)
    if not out.writable:
        raise OutputError("out is read-only. Give an array that can be written, or none.")
    if overlaps_itself(out):
        raise OutputError(
            f"out has several elements in one place (shape {out.shape}, strides in bytes {out.strides}), as broadcast "
            "views have, so a result does not fit. Give an array with memory for each element."
        )
    for name, operand in operands.items():
        if name != "x" and shares_memory(out, operand):
            raise OutputError(
                f"out overlaps {name} in memory, so writing the result would change {name} while it is read. "
                f"Give another out, or pass a copy of {name}; only x may be overwritten."
            )
    x = operands.get("x")
    if x is not None and shares_memory(out, x) and not same_elements(out, x):
        raise OutputError(
            "out overlaps x in memory without being x itself (same start, shape, strides and dtype). "
            "Pass out=x to work in place, or give memory of its own."
        )


def _bounds(memory: Memory) -> tuple[int, int]:
    low, high = memory.address, memory.address + memory.itemsize
    for n, stride in zip(memory.shape, memory.strides, strict=True):
        if stride < 0:
            low += (n - 1) * stride
        else:
            high += (n - 1) * stride
    return low, high


class _Interface:
    """What NumPy needs to describe memory without touching it."""

    def __init__(self, memory: Memory) -> None:
        axes = [
            (n, stride) for n, stride in zip(memory.shape, memory.strides, strict=True) if n != 1
        ]
        self.__array_interface__ = {
            "version": 3,
            "typestr": f"|V{memory.itemsize}",
            "data": (memory.address, True),
            "shape": tuple(n for n, _ in axes),
            "strides": tuple(stride for _, stride in axes),
        }


def _as_array(memory: Memory) -> np.ndarray:
    return np.asarray(_Interface(memory))
