"""Calls through libscanlib's C interface, cut by other numbers than those of native/cuda_plan.h."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.core.libraries import Inputs
from bench.core.shapes import Case
from bench.gpu import libraries as gpu_libraries
from scanlib import gpu, native
from scanlib.call import call_of
from scanlib.plan import dense, prepare
from scanlib.roles import written

Knobs = Mapping[str, int]


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
        layouts = {role: dense(tuple(array.shape), dtype) for role, array in arrays.items()}
        call = call_of(case.shape, case.axis)
        self.knobs, self.library, self.arrays = dict(knobs), library, dict(arrays)
        self.problem = prepare(call, layouts, reverse=case.reverse, target=_target(knobs))
        size = gpu.scratch_bytes(self.problem)
        #: What tells one way to cut a problem from another.
        self.plan = gpu.programs(self.problem), gpu.describe(self.problem), size
        self._scratch = library.empty((size + gpu.ALIGNMENT,), "uint8") if size else None
        self._pointers = native.pack({role: library.address(v) for role, v in arrays.items()})
        outputs = written(backward="grad_h" in arrays)
        self.outputs = [array for role, array in arrays.items() if role in outputs]

    def __call__(self) -> None:
        at = 0
        if self._scratch is not None:
            at = self.library.address(self._scratch)
            at += -at % gpu.ALIGNMENT
        gpu.run(self.problem, self.library.stream(), at, self._pointers)


def _target(knobs: Knobs) -> gpu.Target:
    return gpu.Target(tuning=tuple(knobs.items()))


def check(knobs: Knobs) -> None:
    """`NativeError` where libscanlib has no such numbers, or they are out of bounds."""
    layouts = {role: dense((1,), "float32") for role in ("a", "x", "h")}
    prepare(call_of((1,), 0), layouts, reverse=False, target=_target(knobs))


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
