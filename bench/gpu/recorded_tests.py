"""A plugin for pytest (`-p bench.gpu.recorded_tests`): the tests of a GPU on the CPU, for the programs they would need.

Each member of the matrix that needs a GPU is replaced by its library's member on the CPU, and keeps its own choice of
cases; every problem that a test prepares names its programs in the file GPU_CHECK_RECORD. What needs a real GPU fails,
which says nothing here. The folder tests has to be on the path.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matrix
import pytest
from capabilities import Backend

from scanlib import gpu, native
from scanlib.call import DTYPES

#: JAX's tests need the programs of the other two, and take minutes to compile for the CPU.
TWINS = {Backend.CUPY: matrix.NumPy, Backend.TORCH_CUDA: matrix.Torch, Backend.JAX_CUDA: matrix.Jax}

_found: set[str] = set()
_testing = False
_missing, _prepare_gates = matrix.missing, native.prepare_gates
Prepare = Callable[..., native.NativeProblem]


def recorded(prepare: Prepare) -> Prepare:
    """A function that prepares problems, and writes their programs down."""

    @functools.wraps(prepare)
    def wrapper(*given: Any, **options: Any) -> native.NativeProblem:
        if _testing:
            _record(prepare, given, options)
        return prepare(*given, **options)

    return wrapper


def _record(prepare: Prepare, given: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Write down the programs of what is about to be prepared: of gates in 16 bits too, which a GPU alone runs."""
    options = options | {"tuning": gpu.target().tuning}
    calls = [given]
    if prepare is _prepare_gates:
        form, _, *rest = given
        calls += [(form, DTYPES[name][0], *rest) for name in ("float16", "bfloat16")]
    new = {text for call in calls for text in gpu.programs(prepare(*call, **options))} - _found
    _found.update(new)
    with Path(os.environ["GPU_CHECK_RECORD"]).open("a") as file:
        file.writelines(f"{definitions}\n" for definitions in new)


def missing(backend: Backend) -> str:
    return "" if backend in TWINS else _missing(backend)


native.prepare = recorded(native.prepare)
native.prepare_gates = recorded(native.prepare_gates)
matrix.missing = missing  # type: ignore[assignment]
matrix.MEMBERS.update(TWINS)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    """What is prepared while tests are collected is not a test's."""
    global _testing
    _testing = True
    try:
        return (yield)
    finally:
        _testing = False
