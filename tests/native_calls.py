"""libscanlib on NumPy arrays without an adapter: for what users cannot set, such as the number of threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from scanlib import native
from scanlib.call import call_of
from scanlib.plan import Layout, dense, prepare

Array = np.ndarray[Any, np.dtype[Any]]
#: The operands of either pass, without states.
ROLES = {"forward": ("a", "x", "h"), "backward": ("a", "h", "grad_h", "grad_a", "grad_x")}
KNOWN_SETS = ("baseline", "avx2", "avx512", "neon")


def _prepare(shape: tuple[int, ...], axis: int, arrays: dict[str, Array], **options: Any) -> Any:
    layouts = {role: Layout(v.shape, v.strides, v.dtype.name) for role, v in arrays.items()}
    return prepare(call_of(shape, axis), layouts, **options)


def dense_problem(
    shape: tuple[int, ...], axis: int, roles: Iterable[str], dtype: str = "float32", **options: Any
) -> native.NativeProblem:
    """The problem of operands without gaps, all of one dtype."""
    call = call_of(shape, axis)
    layouts = {role: dense(call.shape_of(role), dtype) for role in roles}
    return prepare(call, layouts, **({"reverse": False} | options))


def _run(problem: Any, arrays: dict[str, Array]) -> None:
    native.run(problem, native.pack({role: v.ctypes.data for role, v in arrays.items()}))


def run_forward(a: Array, x: Array, axis: int, *, threads: int = 0) -> tuple[Array, Array]:
    """h and the final state, for x of the full shape, on so many threads."""
    h = np.full_like(x, np.nan)
    final = np.full_like(np.take(x, 0, axis), np.nan)
    arrays = {"a": a, "x": x, "h": h, "final": final}
    _run(_prepare(x.shape, axis, arrays, reverse=False, threads=threads), arrays)
    return h, final


def run_backward(
    grad_h: Array, a: Array, h: Array, axis: int, *, threads: int = 0
) -> tuple[Array, Array]:
    """grad_a in a's own shape and grad_x, on so many threads."""
    grad_a, grad_x = np.full_like(a, np.nan), np.full_like(h, np.nan)
    arrays = {"a": a, "h": h, "grad_h": grad_h, "grad_a": grad_a, "grad_x": grad_x}
    _run(_prepare(h.shape, axis, arrays, reverse=False, threads=threads, conjugate=True), arrays)
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
