"""A rehearsal without a GPU: everything goes its way up to the launch, on a driver that launches nothing.

GPU_CHECK_REHEARSE names that driver, tests/native/fake_cuda.c compiled. Arrays are memory that nobody touches, so they
may be as large as on a GPU; what would be computed is not, and no value is checked. With GPU_CHECK_RECORD, a file, the
programs that are asked for are written there, a line each, and none is compiled.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.core import libraries
from bench.core.reference import Index
from bench.core.shapes import Case, np_dtype
from bench.core.timing import Budget, Call, Summary
from bench.gpu.timing import by_clock

CONTEXT = 256  # a stream of the driver's first context: tests/native/fake_cuda.c


def active() -> bool:
    return "GPU_CHECK_REHEARSE" in os.environ


def empty(shape: Any, dtype: Any) -> Any:
    return _adapter().empty(shape, dtype)


class Library(libraries.NumPy):
    """Stands for torch, CuPy or JAX."""

    computes = False

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        _adapter()

    def random(self, case: Case, dtype: str) -> tuple[Any, Any, Any]:
        return tuple(empty(case.shape, np_dtype(dtype)) for _ in range(3))  # type: ignore[return-value]

    def inputs(self, case: Case, dtype: str) -> libraries.Inputs:
        if case.layout != "halves":
            return libraries.Inputs(*self.random(case, dtype))
        both = empty((*case.shape[:-1], 2 * case.shape[-1]), np_dtype(dtype))
        return self.halves(case, both, empty(case.shape, np_dtype(dtype)))

    def own(self, array: Any) -> Any:
        return empty(array.shape, array.dtype)

    def constant(self, case: Case, value: float, dtype: str) -> Any:
        return empty((1,) * len(case.shape), np_dtype(dtype))

    def gather(self, array: Any, index: Index) -> Any:
        raise NotImplementedError("no value of a rehearsal is looked at")

    def pair(self, case: Case, work: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
        return super().pair(case, work)[0], lambda *operands: None

    def timer(  # type: ignore[override]
        self, calls: Mapping[str, Call], budget: Budget, inner: int = 1
    ) -> dict[str, Summary]:
        return by_clock(lambda: None, calls, Budget(0, 1, 1), queued=1)

    def array(self, values: Any) -> Any:
        return _adapter().xp.asarray(values)

    def to_numpy(self, array: Any) -> Any:
        return np.asarray(array)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        return empty(shape, np_dtype(dtype))

    def address(self, array: Any) -> int:
        return array.ctypes.data

    def stream(self) -> int:
        return CONTEXT

    def wait(self) -> None:
        pass

    def same(self, first: Any, second: Any) -> bool:
        return True

    def apart(self, first: Any, second: Any) -> float:
        return 0.0


@functools.cache
def _adapter() -> Any:
    """From here on its arrays are served by the CUDA launcher, on the driver that launches nothing."""
    from bench.gpu.host_arrays import HostCuda
    from scanlib import compiler, gpu, native

    class Array(np.ndarray[Any, Any]):
        """Memory that scanlib takes for a GPU's."""

    native.check(gpu.library().scanlib_cuda_use_driver(os.environ["GPU_CHECK_REHEARSE"].encode()))
    if "GPU_CHECK_RECORD" in os.environ:
        compiler.provider = _record
    options: dict[str, Any] = {"device": "cuda (rehearsal)", "stream": CONTEXT, "poisoned": False}
    made = HostCuda("rehearsal", Array, path="libscanlib (cuda)", **options)
    made.serve()
    return made


@functools.cache
def _record(definitions: str, architecture: int) -> bytes:
    with Path(os.environ["GPU_CHECK_RECORD"]).open("a") as file:
        file.write(definitions + "\n")
    return b"recorded"
