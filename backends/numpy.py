"""NumPy: arrays in the CPU's memory, no autodiff, mutable outputs."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from scanlib import native
from scanlib.backends import numpy_functions as functions
from scanlib.backends.strided import Strided
from scanlib.backends.strided_plans import Access
from scanlib.plan import Plan


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
_run = native.library().scanlib_cpu_run
_pack = native.pack_forward
_empty = np.empty


def address(array: Any) -> int:
    """Of the first element; 0 for None."""
    return 0 if array is None else array.ctypes.data


#: What libscanlib is given for an array: the object where it can read the pointer in it, else the pointer. What it is
#: given for None is not looked at.
_pointer: Callable[[Any], int] = id if _HOLDER_OFFSET else address


class NumPy(Strided):
    name = "numpy"
    path = "libscanlib (cpu)"
    access = Access(_HOLDER_OFFSET)

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

    def linear_recurrence(
        self, a: Any, x: Any, h0: Any, axis: Any, reverse: bool, return_final: bool, out: Any
    ) -> Any:
        # The short way of what follows in `Strided`: for tiny arrays each step between would count.
        plain = type(a) is type(x) is np.ndarray and (type(axis) is int or axis is None)
        if plain and h0 is out is None and not return_final:
            # fmt: off
            plan = self.forward_plan(a.shape, a.strides, a.dtype, x.shape, x.strides, x.dtype,
                                     None, axis, reverse, False, None, None)
            # fmt: on
            shape, dtype, order = plan.outputs["h"]
            if order is None and not plan.copies:
                h, of = _empty(shape, dtype), _pointer
                if status := _run(plan.address, _pack(of(a), of(x), of(h), 0, 0)):
                    native.check(status)
                return h
        return super().linear_recurrence(a, x, h0, axis, reverse, return_final, out)

    def run_forward(self, plan: Plan, a: Any, x: Any, h: Any, initial: Any, final: Any) -> None:
        of = _pointer
        if status := _run(plan.address, _pack(of(a), of(x), of(h), of(initial), of(final))):
            native.check(status)

    def run(self, problem: native.NativeProblem, arrays: Mapping[str, Any]) -> None:
        native.run(problem, native.pack({role: _pointer(v) for role, v in arrays.items()}))


__all__ = ["explain", "functions", "gated_scan", "linear_recurrence", "linear_recurrence_vjp"]

_adapter = NumPy(np)
linear_recurrence = _adapter.linear_recurrence
linear_recurrence_vjp = _adapter.linear_recurrence_vjp
gated_scan = _adapter.gated_scan
explain = _adapter.explain
