"""libscanlib on NumPy arrays without an adapter: for what users cannot set, such as the number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from scanlib import native
from scanlib.problem import broadcast_strides, dtype_code

Array = np.ndarray[Any, np.dtype[Any]]
KNOWN_SETS = ("baseline", "avx2", "avx512", "neon")
STATES = ("h0", "final", "grad_final", "grad_h0")


def _operand(role: str, array: Array, shape: tuple[int, ...], axis: int) -> native.Operand:
    strides = tuple(stride // array.itemsize for stride in array.strides)
    if role in STATES:
        strides = (*strides[:axis], 0, *strides[axis:])
    else:
        strides = broadcast_strides(array.shape, strides, shape)
    return dtype_code(array.dtype.name, role), strides


def _prepare(shape: tuple[int, ...], axis: int, arrays: dict[str, Array], **options: Any) -> Any:
    operands = {role: _operand(role, array, shape, axis) for role, array in arrays.items()}
    return native.prepare(shape, axis, operands, **options)


def run_forward(a: Array, x: Array, axis: int, *, threads: int = 0) -> tuple[Array, Array]:
    """h and the final state, for x of the full shape, on so many threads."""
    h = np.full_like(x, np.nan)
    final = np.full_like(np.take(x, 0, axis), np.nan)
    arrays = {"a": a, "x": x, "h": h, "final": final}
    problem = _prepare(x.shape, axis, arrays, threads=threads)
    native.forward(problem, a.ctypes.data, x.ctypes.data, 0, h.ctypes.data, final.ctypes.data)
    return h, final


def run_backward(
    grad_h: Array, a: Array, h: Array, axis: int, *, threads: int = 0
) -> tuple[Array, Array]:
    """grad_a in a's own shape and grad_x, on so many threads."""
    grad_a, grad_x = np.full_like(a, np.nan), np.full_like(h, np.nan)
    arrays = {"a": a, "h": h, "grad_h": grad_h, "grad_a": grad_a, "grad_x": grad_x}
    problem = _prepare(h.shape, axis, arrays, threads=threads, conjugate=True)
    pointers = (
        v if isinstance(v, int) else v.ctypes.data for v in (a, h, 0, grad_h, 0, grad_a, grad_x, 0)
    )
    native.backward(problem, *pointers)
    return grad_a, grad_x


def instruction_sets() -> tuple[str, ...]:
    """Those of this machine that libscanlib has kernels for."""
    lib = native.library()
    before = lib.scanlib_cpu_isa()
    known = [name for name in KNOWN_SETS if lib.scanlib_cpu_select_isa(name.encode()) == 0]
    native.check(lib.scanlib_cpu_select_isa(before))
    return tuple(known)


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Everything libscanlib runs inside uses this one; the chosen one where `name` is empty."""
    lib = native.library()
    before = lib.scanlib_cpu_isa()
    if name:
        native.check(lib.scanlib_cpu_select_isa(name.encode()))
    yield
    native.check(lib.scanlib_cpu_select_isa(before))
