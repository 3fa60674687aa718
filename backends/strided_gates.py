"""Gated recurrences of NumPy-like arrays, in one pass: `scanlib.gates` says what they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from scanlib import gpu
from scanlib.call import call_of
from scanlib.gates import GATED, GateForm
from scanlib.plan import prepare_gates
from scanlib.roles import INITIAL


def gated_scan(
    adapter: Any,
    columns: Any,
    initial: Any,
    reset: Any,
    axis: int,
    form: GateForm,
    offsets: Any = None,
) -> tuple[Any, Any] | None:
    """Output and final state, or None where there is no kernel for these arrays; a method of `strided.Strided`."""
    shape = (*columns.shape[:-1], form.width)
    state = call_of(shape, axis, None if offsets is None else offsets.shape[0] - 1).state_shape
    whole = adapter.address(columns) % columns.itemsize == 0
    if columns.dtype not in adapter.gated_dtypes or not (whole and columns.flags.c_contiguous):
        return None
    arrays = {"a": columns}
    if initial is not None:
        if initial.dtype != columns.dtype or initial.shape != state:
            return None
        arrays[INITIAL] = _dense(adapter, initial)
    if reset is not None:
        if reset.dtype != np.bool_ or reset.shape != columns.shape[:-1]:
            return None
        arrays["reset"] = _dense(adapter, reset)
    if offsets is not None:
        arrays["offsets"] = _dense(adapter, offsets.astype(np.int64, copy=False))
    empty = adapter.empty
    arrays |= {"h": empty(shape, columns.dtype), "final": empty(state, columns.dtype)}
    if form.reading == GATED:
        arrays["y"] = empty(shape, columns.dtype)
    place = adapter.place(arrays)
    # fmt: off
    problem = prepare_gates(form, columns.dtype.name, columns.shape, axis, frozenset(arrays),
                            place.target if place else gpu.CPU, holder_offset=adapter.access.holder_offset,
                            segments=0 if offsets is None else offsets.shape[0] - 1)
    # fmt: on
    adapter.run(problem, arrays)
    return arrays.get("y", arrays["h"]), arrays["final"]


def _dense(adapter: Any, array: Any) -> Any:
    """In C order, at an address that the kernels can read."""
    if adapter.access.whole_elements and adapter.address(array) % array.itemsize:
        return adapter.readable(array)
    whole = adapter.address(array) % array.itemsize == 0
    return array if whole and array.flags.c_contiguous else array.copy()
