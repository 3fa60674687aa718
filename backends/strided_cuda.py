"""NumPy-like arrays in a GPU's memory: the CUDA kernels on a stream, with scratch memory from the arrays' library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scanlib import gpu, native
from scanlib.backends.strided import Strided
from scanlib.backends.strided_plans import Access, Place
from scanlib.plan import Plan
from scanlib.roles import FORWARD


class StridedCuda(Strided):
    """`Strided` over the CUDA kernels. A subclass says on which GPU and stream, and where scratch memory comes from.

    The kernels access an element at once. An array whose address or strides are no multiples of its element's size is
    copied first, byte by byte, as its plan says.
    """

    path = "libscanlib (cuda)"
    access = Access(whole_elements=True)
    gated_dtypes = (np.dtype(np.float16), *Strided.gated_dtypes)

    def architectures(self) -> tuple[int, ...]:
        """That of the current GPU: (90,) for sm_90."""
        raise NotImplementedError

    def stream(self) -> int:
        """The handle of the stream that work is put on."""
        raise NotImplementedError

    def scratch(self, size: int) -> tuple[int, Any]:
        """The address of so many bytes, aligned to `gpu.ALIGNMENT`, and what keeps them until the call returns."""
        raise NotImplementedError

    def bytes_of(self, array: Any) -> Any:
        """A view of an array's bytes, on one more axis at the end."""
        raise NotImplementedError

    def place(self, arrays: Mapping[str, Any], *, runs: bool = True) -> Place:
        address = self.address
        unaligned = [r for r, v in arrays.items() if v is not None and address(v) % v.itemsize]
        return Place(tuple(unaligned), gpu.target(self.architectures() if runs else ()))

    def describe(self, problem: native.NativeProblem) -> str:
        return gpu.describe(problem)

    def run_forward(self, plan: Plan, a: Any, x: Any, h: Any, initial: Any, final: Any) -> None:
        self.run(plan.native, dict(zip(FORWARD, (a, x, h, initial, final), strict=True)))

    def run(self, problem: native.NativeProblem, arrays: Mapping[str, Any]) -> None:
        size = gpu.scratch_bytes(problem)
        address, kept = self.scratch(size) if size else (0, None)
        pointers = {role: self.address(v) for role, v in arrays.items() if v is not None}
        gpu.run(problem, self.stream(), address, native.pack(pointers))
        del kept

    # ---- memory that is not aligned

    def readable(self, array: Any) -> Any:
        return super().readable(self.bytes_of(array).copy().view(array.dtype)[..., 0])

    def write(self, target: Any, values: Any) -> None:
        self.bytes_of(target)[...] = self.bytes_of(values.astype(target.dtype, copy=False))
