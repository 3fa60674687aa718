"""NumPy: arrays in the CPU's memory, no autodiff, mutable outputs."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from scanlib import native
from scanlib.backends import numpy_functions as functions
from scanlib.backends.strided import Strided
from scanlib.backends.strided_plans import Access
from scanlib.call import Shape
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
_Array = np.ndarray


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

    def __init__(self) -> None:
        super().__init__(np)
        self._direct = lru_cache(1024)(self._plan_direct)

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
        self,
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
        # The short way of what follows in `Strided`: for tiny arrays each step between would count.
        plain = type(a) is type(x) is _Array and (type(axis) is int or axis is None)
        if plain and h0 is out is reset is offsets is None and not return_final:
            # fmt: off
            found = self._direct(a.shape, a.strides, a.dtype, x.shape, x.strides, x.dtype, axis, reverse)
            # fmt: on
            if found is not None:
                problem, shape, dtype = found
                h = _empty(shape, dtype)
                if status := _run(problem, _pack(_pointer(a), _pointer(x), _pointer(h), 0, 0)):
                    native.check(status)
                return h
        # fmt: off
        return super().linear_recurrence(a, x, h0, axis, reverse, return_final, out, reset, offsets)
        # fmt: on

    def _plan_direct(self, *given: Any) -> tuple[native.NativeProblem, Shape, Any] | None:
        """Problem, shape and dtype of the result of a call that writes it in C order and copies nothing, else None.

        `given`: shapes, strides and dtypes of `a` and `x`, axis, reverse.
        """
        *operands, axis, reverse = given
        plan = self.forward_plan(*operands, None, axis, reverse, False, None, None)
        shape, dtype, order = plan.outputs["h"]
        return None if order is not None or plan.copies else (plan.native, shape, dtype)

    def run_forward(self, plan: Plan, a: Any, x: Any, h: Any, initial: Any, final: Any) -> None:
        of = _pointer
        if status := _run(plan.native, _pack(of(a), of(x), of(h), of(initial), of(final))):
            native.check(status)

    def run(self, problem: native.NativeProblem, arrays: Mapping[str, Any]) -> None:
        native.run(problem, native.pack({role: _pointer(v) for role, v in arrays.items()}))


__all__ = ["explain", "functions", "gated_scan", "linear_recurrence", "linear_recurrence_vjp"]

_adapter = NumPy()
linear_recurrence = _adapter.linear_recurrence
linear_recurrence_vjp = _adapter.linear_recurrence_vjp
gated_scan = _adapter.gated_scan
explain = _adapter.explain
