"""NumPy-like arrays in a GPU's memory: the CUDA kernels on a stream, with scratch memory from the arrays' library."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

from scanlib import gpu, native
from scanlib.backends.strided import Strided
from scanlib.backends.strided_plans import Access
from scanlib.call import axis_index
from scanlib.plan import Explanation, Plan, copy_notes
from scanlib.roles import FORWARD


class StridedCuda(Strided):
    """`Strided` over the CUDA kernels. A subclass says on which stream, and where scratch memory comes from.

    The kernels access an element at once. An array whose address or strides are no multiples of its element's size goes
    by way of a copy, byte by byte.
    """

    path = "libscanlib (cuda)"
    access = Access(whole_elements=True)

    def stream(self) -> int:
        """The handle of the stream that work is put on."""
        raise NotImplementedError

    def scratch(self, size: int) -> tuple[int, Any]:
        """The address of so many bytes, aligned to `gpu.ALIGNMENT`, and what keeps them until the call returns."""
        raise NotImplementedError

    def bytes_of(self, array: Any) -> Any:
        """A view of an array's bytes, on one more axis at the end."""
        raise NotImplementedError

    def describe(self, problem: native.NativeProblem) -> str:
        return gpu.describe(problem)

    def run_forward(self, plan: Plan, a: Any, x: Any, h: Any, initial: Any, final: Any) -> None:
        self.run_backward(plan, dict(zip(FORWARD, (a, x, h, initial, final), strict=True)))

    def run_backward(self, plan: Plan, arrays: dict[str, Any]) -> None:
        size = gpu.scratch_bytes(plan.native)
        address, kept = self.scratch(size) if size else (0, None)
        pointers = {role: self.address(v) for role, v in arrays.items() if v is not None}
        gpu.run(plan.native, self.stream(), address, native.pack(pointers))
        del kept

    # ---- memory that is not aligned

    def linear_recurrence(self, *arguments: Any) -> Any:
        a, x, initial = map(self._aligned, arguments[:3])
        axis, reverse, return_final, out = arguments[3:]
        if not self._unaligned(out):
            return super().linear_recurrence(a, x, initial, axis, reverse, return_final, out)
        self._target(*self._arrays(a, x, initial), axis_index(axis), out)
        h, final = super().linear_recurrence(a, x, initial, axis, reverse, True, None)
        self.bytes_of(out)[...] = self.bytes_of(h)
        return (out, final) if return_final else out

    def linear_recurrence_vjp(self, *arguments: Any) -> tuple[Any, Any, Any]:
        return super().linear_recurrence_vjp(*map(self._aligned, arguments))

    def explain(self, *arguments: Any) -> Explanation:
        found = super().explain(*arguments)  # which says of strides what there is to say
        names = list(inspect.signature(Strided.explain).parameters)[1:]
        named = zip(names, arguments, strict=True)
        why = "its address is not a multiple of its element size"
        notes = copy_notes([(name, why) for name, value in named if self._at_odd_address(value)])
        notes = [note for note in notes if note.partition(":")[0] not in str(found.notes)]
        return replace(found, notes=(*found.notes, *notes))

    def _at_odd_address(self, value: Any) -> bool:
        is_array: bool = isinstance(value, self.kind)
        return is_array and bool(self.address(value) % value.dtype.itemsize)

    def _unaligned(self, value: Any) -> bool:
        is_array: bool = isinstance(value, self.kind)
        return is_array and (
            self._at_odd_address(value)
            or any(stride % value.dtype.itemsize for stride in value.strides)
        )

    def _aligned(self, value: Any) -> Any:
        """An array, copied if it is not aligned; anything else as it is."""
        if not self._unaligned(value):
            return value
        return self.bytes_of(value).copy().view(value.dtype)[..., 0]
