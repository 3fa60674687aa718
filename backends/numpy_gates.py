"""Gated recurrences of NumPy arrays, in one pass: `scanlib.gates` says what they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from scanlib import native
from scanlib.call import DTYPES
from scanlib.gates import GATED, GateForm

_CODES = {np.dtype(name): DTYPES[name][0] for name in ("float32", "float64")}


def gated_scan(columns: Any, initial: Any, reset: Any, axis: int, form: GateForm) -> Any:
    """Output and final state, or None where there is no kernel for these arrays."""
    code = _CODES.get(columns.dtype)
    shape = (*columns.shape[:-1], form.width)
    state = (*shape[:axis], *shape[axis + 1 :])
    if code is None or not (columns.flags.c_contiguous and columns.flags.aligned):
        return None
    if initial is not None:
        if initial.dtype != columns.dtype or initial.shape != state:
            return None
        initial = np.ascontiguousarray(initial)
    if reset is not None:
        if reset.dtype != bool or reset.shape != columns.shape[:-1]:
            return None
        reset = np.ascontiguousarray(reset)
    h, final = np.empty(shape, columns.dtype), np.empty(state, columns.dtype)
    y = np.empty_like(h) if form.reading == GATED else None
    gates = native.prepare_gates(form, code, columns.shape, axis)
    native.gated_forward(gates, *map(address, (columns, initial, reset, h, y, final)))
    return h if y is None else y, final


def address(array: Any) -> int:
    """Of the first element; 0 for None."""
    return 0 if array is None else array.ctypes.data
