"""Calls through libscanlib's C interface, cut by other numbers than those of native/cuda_plan.h.

Adapters keep prepared problems, and with them what they found out of the numbers in force; here a problem is prepared,
and each of its calls made, under its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench import gpu_libraries
from bench.libraries import Inputs
from bench.shapes import Case
from scanlib import gpu, native
from scanlib.problem import DTYPES, broadcast_strides, contiguous_strides

Knobs = Mapping[str, int]
#: The operands of scanlib.gpu's functions, in their order.
FORWARD = ("a", "x", "h0", "h", "final")
BACKWARD = ("a", "h", "h0", "grad_h", "grad_final", "grad_a", "grad_x", "grad_h0")


class Call:
    """One call that may be made again and again: forward or backward on arrays that stay the same."""

    def __init__(
        self,
        library: gpu_libraries.Direct,
        case: Case,
        dtype: str,
        arrays: Mapping[str, Any],
        knobs: Knobs,
    ) -> None:
        code = DTYPES[dtype][0]
        backward = "grad_h" in arrays
        operands = {}
        for role, array in arrays.items():
            shape = tuple(array.shape)
            strides = broadcast_strides(shape, contiguous_strides(shape), case.shape)
            operands[role] = code, strides
        self.knobs, self.library, self.arrays = dict(knobs), library, dict(arrays)
        with gpu.tuned(self.knobs):
            self.problem = native.prepare(case.shape, case.axis, operands, reverse=case.reverse)
            size = gpu.scratch_bytes(self.problem)
            #: What tells one way to cut a problem from another.
            self.plan = gpu.programs(self.problem), gpu.describe(self.problem), size
        self._scratch = library.empty((size + gpu.ALIGNMENT,), "uint8") if size else None
        self._run = gpu.backward if backward else gpu.forward
        self._addresses = [
            library.address(arrays[role]) if role in arrays else 0
            for role in (BACKWARD if backward else FORWARD)
        ]
        self.outputs = [arrays[role] for role in (("grad_a", "grad_x") if backward else ("h",))]

    def __call__(self) -> None:
        at = 0
        if self._scratch is not None:
            at = self.library.address(self._scratch)
            at += -at % gpu.ALIGNMENT
        with gpu.tuned(self.knobs):
            self._run(self.problem, self.library.stream(), at, *self._addresses)


def forward(
    library: gpu_libraries.Direct, case: Case, dtype: str, inputs: Inputs, knobs: Knobs
) -> Call:
    """h of `inputs`, in memory of its own."""
    arrays = {"a": inputs.a, "x": inputs.x, "h": library.empty(case.shape, dtype)}
    return Call(library, case, dtype, arrays, knobs)


def backward(
    library: gpu_libraries.Direct, case: Case, dtype: str, inputs: Inputs, h: Any, knobs: Knobs
) -> Call:
    """The gradients, in memory of their own; that of an `a` that is repeated is summed."""
    gradients = {
        "grad_h": inputs.grad,
        "grad_a": library.empty(tuple(inputs.a.shape), dtype),
        "grad_x": library.empty(case.shape, dtype),
    }
    return Call(library, case, dtype, {"a": inputs.a, "h": h, **gradients}, knobs)
