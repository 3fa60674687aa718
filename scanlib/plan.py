"""From a call to what runs it: how operands lie in memory, outputs to allocate, copies to make, the kernel.

An adapter makes plans for its arrays and runs them; `scanlib.explain` prints one and computes nothing. A plan holds no
array and no address, so one serves all calls on arrays alike; adapters keep theirs in bounded caches. Strides are
merged into the canonical (outer, T, inner) form by libscanlib (`native/problem.cpp`), because the handlers that XLA
calls need it where there is no Python.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from scanlib import gpu, native
from scanlib.call import DTYPES, Call, Shape, dtype_of
from scanlib.gates import GateForm
from scanlib.roles import STATES


class Layout(NamedTuple):
    """How an array lies in memory: shape, strides in bytes, and the name of its dtype."""

    shape: Shape
    strides: Shape
    dtype: str


class Output(NamedTuple):
    """An array to allocate: shape, dtype as the library has it, and axes from far to near where not in C order."""

    shape: Shape
    dtype: Any
    order: tuple[int, ...] | None = None


class Plan(NamedTuple):
    """How a call runs.

    Attributes
    ----------
    native
        The prepared problem.
    call
        What is computed.
    outputs
        By role.
    copies
        (operand, why) for each that is copied before libscanlib reads it, or for `h`, after it was written.
    """

    native: native.NativeProblem
    call: Call
    outputs: Mapping[str, Output]
    copies: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """The path a call takes: made by `scanlib.explain`, readable with `print`.

    Attributes
    ----------
    library
        The array library whose adapter serves the call.
    device
        Where the arrays are and the result will be.
    path
        What runs: "libscanlib (cpu)", "libscanlib (cuda)", or a fallback's name.
    kernel
        The kernel, how it walks the data and how the work is cut.
    notes
        Copies and conversions this call makes, and why a faster path is not taken; empty if nothing is lost.
    """

    library: str
    device: str
    path: str
    kernel: str
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"library  {self.library}",
            f"device   {self.device}",
            f"path     {self.path}",
            f"kernel   {self.kernel}",
        ]
        return "\n".join(lines + [f"note     {note}" for note in self.notes])


def copy_notes(copies: Sequence[tuple[str, str]]) -> list[str]:
    """What `scanlib.explain` says of a plan's copies."""
    return [f"{role} is copied: {why}" for role, why in copies]


def make(
    call: Call,
    layouts: Mapping[str, Layout],
    outputs: Mapping[str, Output],
    copies: tuple[tuple[str, str], ...] = (),
    **options: Any,
) -> Plan:
    """The plan of a call whose operands, outputs too, lie in memory like this; `options` are `prepare`'s."""
    return Plan(prepare(call, layouts, **options), call, outputs, copies)


def prepare(
    call: Call,
    layouts: Mapping[str, Layout],
    *,
    reverse: bool,
    target: gpu.Target = gpu.CPU,
    **options: Any,
) -> native.NativeProblem:
    """The native problem of operands by role; that of a backward pass where grad_h is among them.

    Its programs are compiled for the GPUs of `target`. `options` are `native.prepare`'s. Raises `DTypeError` where
    scanlib does not compute in a dtype.
    """
    operands = {role: _operand(role, layout, call) for role, layout in layouts.items()}
    options |= {"reverse": reverse, "tuning": target.tuning, "segments": call.segments or 0}
    problem = native.prepare(call.shape, call.axis, operands, **options)
    gpu.compile_programs(problem, target)
    return problem


@lru_cache(maxsize=1024)
def prepare_gates(
    form: GateForm,
    dtype: str,
    shape: Shape,
    axis: int,
    given: frozenset[str],
    target: gpu.Target = gpu.CPU,
    **options: Any,
) -> native.NativeProblem:
    """The native problem of a gated recurrence, kept, its programs compiled as `prepare` has them.

    Parameters are `native.prepare_gates`'s; `dtype` is that of the columns by its name, such as "float32".
    """
    options |= {"tuning": target.tuning}
    problem = native.prepare_gates(form, DTYPES[dtype][0], shape, axis, given, **options)
    gpu.compile_programs(problem, target)
    return problem


def _operand(role: str, layout: Layout, call: Call) -> native.Operand:
    """Strides over the call's shape: 0 along every axis the operand is repeated on, and along no other.

    NumPy and CuPy give an array without elements strides of 0.
    """
    (code, size), target = dtype_of(layout.dtype, role), call.shape_of(role)
    if role == "offsets":
        return code, [layout.strides[0] if d == call.axis else 0 for d in range(len(call.shape))]
    missing = len(target) - len(layout.shape)
    strides = (0,) * missing + tuple(
        0 if length == 1 and wanted != 1 else stride if length else size
        for length, stride, wanted in zip(
            layout.shape, layout.strides, target[missing:], strict=True
        )
    )
    if role in STATES and call.segments is None:
        strides = (*strides[: call.axis], 0, *strides[call.axis :])
    return code, strides


def contiguous_strides(shape: Shape, step: int = 1, order: Sequence[int] | None = None) -> Shape:
    """Strides of an array without gaps, of elements `step` apart: in C order, or axes in `order`, far to near."""
    strides = [0] * len(shape)
    for axis in reversed(range(len(shape)) if order is None else order):
        strides[axis] = step
        step *= max(shape[axis], 1)
    return tuple(strides)


def dense(shape: Shape, dtype: str, order: Sequence[int] | None = None, role: str = "h") -> Layout:
    """The layout of an array without gaps, of an operand of that role."""
    return Layout(shape, contiguous_strides(shape, dtype_of(dtype, role)[1], order), dtype)
