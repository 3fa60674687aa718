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

#: JAX's tests need the programs of the other two, and take minutes to compile for the CPU.
TWINS = {Backend.CUPY: matrix.NumPy, Backend.TORCH_CUDA: matrix.Torch, Backend.JAX_CUDA: matrix.Jax}

_found: set[str] = set()
_testing = False
_missing = matrix.missing
Prepare = Callable[..., native.NativeProblem]


def recorded(prepare: Prepare) -> Prepare:
    """A function that prepares problems, and writes their programs down."""

    @functools.wraps(prepare)
    def wrapper(*given: Any, **options: Any) -> native.NativeProblem:
        problem = prepare(*given, **options)
        if _testing:
            new = set(gpu.programs(problem)) - _found
            _found.update(new)
            with Path(os.environ["GPU_CHECK_RECORD"]).open("a") as file:
                file.writelines(f"{definitions}\n" for definitions in new)
        return problem

    return wrapper


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
