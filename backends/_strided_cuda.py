"""NumPy-like arrays in a GPU's memory: the CUDA kernels on a stream, with scratch memory from the arrays' library."""

from __future__ import annotations

from typing import Any

import numpy as np

from scanlib import gpu, native
from scanlib.backends._strided import Strided
from scanlib.backends._strided_plans import Plan


class StridedCuda(Strided):
    """`Strided` over the CUDA kernels. A subclass says on which stream, and where scratch memory comes from."""

    path = "libscanlib (cuda)"

    def stream(self) -> int:
        """The handle of the stream that work is put on."""
        raise NotImplementedError

    def scratch(self, size: int) -> tuple[int, Any]:
        """The address of so many bytes, aligned to `gpu.ALIGNMENT`, and what keeps them until the call returns."""
        raise NotImplementedError

    def alignment(self, dtype: np.dtype[Any]) -> int:
        return dtype.itemsize  # the kernels access a complex element at once

    def describe(self, problem: native.NativeProblem) -> str:
        return gpu.describe(problem)

    def forward(self, plan: Plan, a: Any, x: Any, h0: Any, h: Any, final: Any) -> None:
        self._launch(gpu.forward, plan.native, (a, x, h0, h, final))

    def backward(self, problem: native.NativeProblem, *arrays: Any) -> None:
        self._launch(gpu.backward, problem, arrays)

    def _launch(self, run: Any, problem: native.NativeProblem, arrays: tuple[Any, ...]) -> None:
        size = gpu.scratch_bytes(problem)
        address, kept = self.scratch(size) if size else (0, None)
        pointers = (0 if array is None else self.address(array) for array in arrays)
        run(problem, self.stream(), address, *pointers)
        del kept
