"""NumPy: arrays in the CPU's memory, no autodiff, mutable outputs."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np

from scanlib import native
from scanlib.backends._strided import Strided
from scanlib.backends._strided_plans import Plan


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
_forward = native.library().scanlib_cpu_forward


def _pointer(array: Any) -> int:
    """What libscanlib is given for an array: the object where it can read the pointer in it, else the pointer."""
    if array is None:
        return 0
    return id(array) if _HOLDER_OFFSET else array.ctypes.data


class NumPy(Strided):
    name = "numpy"
    path = "libscanlib (cpu)"
    holder_offset = _HOLDER_OFFSET

    def address(self, array: Any) -> int:
        return array.ctypes.data

    def writable(self, array: Any) -> bool:
        return array.flags.writeable

    def device(self, array: Any) -> str:
        return "cpu"

    def number(self, value: complex, dtype: np.dtype[Any]) -> Any:
        return np.asarray(value, dtype)

    def describe(self, problem: native.NativeProblem) -> str:
        return native.describe(problem)

    def forward(self, plan: Plan, a: Any, x: Any, h0: Any, h: Any, final: Any) -> None:
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
            code = _forward(plan.address, *map(_pointer, (a, x, h0, h, final)))
        if code:
            native.check(code)

    def backward(self, problem: native.NativeProblem, *arrays: Any) -> None:
        native.backward(problem, *map(_pointer, arrays))


_adapter = NumPy(np)
linear_recurrence = _adapter.linear_recurrence
linear_recurrence_vjp = _adapter.linear_recurrence_vjp
explain = _adapter.explain
