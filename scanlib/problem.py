"""From shapes and an axis to one problem: what every adapter checks, checked once.

Nothing here knows an array library. Strides are merged into the canonical (outer, T, inner) form by libscanlib
(`native/problem.cpp`), because the handlers that XLA calls need it where there is no Python.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass

from scanlib.errors import AxisError, AxisTypeError, DTypeError, ShapeError

Shape = tuple[int, ...]

#: dtype name -> (code in native/scanlib.h, bytes an element)
DTYPES: dict[str, tuple[int, int]] = {
    "float16": (1, 2),
    "bfloat16": (2, 2),
    "float32": (3, 4),
    "float64": (4, 8),
    "complex64": (5, 8),
    "complex128": (6, 16),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A recurrence over arrays of known shapes.

    Attributes
    ----------
    shape
        The broadcast shape of `a` and `x`, and so of `h`.
    axis
        The time axis, counted from the front.
    state_shape
        `shape` without `axis`: the shape of `h0` and of the final state.
    """

    shape: Shape
    axis: int
    state_shape: Shape


def axis_index(axis: object) -> int | None:
    """`axis` as an int, or None; what is not an integer (a float, a bool, a list) raises `AxisTypeError`."""
    if axis is None or type(axis) is int:
        return axis
    try:
        if isinstance(axis, bool):
            raise TypeError
        return operator.index(axis)  # type: ignore[arg-type]
    except TypeError:
        raise AxisTypeError(f"axis must be an integer, not {axis!r}.") from None


@functools.lru_cache(maxsize=4096)
def resolve(a: Shape, x: Shape, h0: Shape | None, axis: int | None) -> Problem:
    """Check shapes and axis; raise `ShapeError` or `AxisError`, or return the `Problem`."""
    shape = broadcast_shapes(a, x)
    axis = normalize_axis(axis, len(shape))
    state_shape = shape[:axis] + shape[axis + 1 :]
    if h0 is not None:
        check_state("h0", h0, shape, axis)
    return Problem(shape, axis, state_shape)


@functools.lru_cache(maxsize=4096)
def resolve_vjp(
    grad_h: Shape, a: Shape, h: Shape, h0: Shape | None, grad_final: Shape | None, axis: int | None
) -> Problem:
    """The same for `linear_recurrence_vjp`: `h` fixes the shape that all others must fit."""
    if grad_h != h:
        raise ShapeError(f"grad_h has shape {grad_h} and h has shape {h}; they must be equal.")
    problem = resolve.__wrapped__(
        a, h, h0, axis
    )  # uncached: tracing compilers come here with symbolic lengths
    if problem.shape != h:
        raise ShapeError(f"a has shape {a}, which does not broadcast to h's shape {h}.")
    if grad_final is not None:
        check_state("grad_final", grad_final, h, problem.axis)
    return problem


def broadcast_shapes(a: Shape, x: Shape) -> Shape:
    """The shape `a` and `x` broadcast to."""
    ndim = max(len(a), len(x))
    padded_a, padded_x = (1,) * (ndim - len(a)) + a, (1,) * (ndim - len(x)) + x
    shape = []
    for m, n in zip(padded_a, padded_x, strict=True):
        if m != n and m != 1 and n != 1:
            raise ShapeError(
                f"a has shape {a} and x has shape {x}, which do not broadcast: {m} and {n} meet on one axis. "
                "Give both the same length on every axis, or length 1 where one is to be repeated."
            )
        shape.append(n if m == 1 else m)
    return tuple(shape)


def normalize_axis(axis: int | None, ndim: int, of: str = "the result") -> int:
    """`axis` counted from the front, in an array called `of`; it may be left out only where there is just one."""
    if ndim == 0:
        raise ShapeError(
            f"{of} has no axes, but the recurrence runs along one: give the arrays an axis of time."
        )
    if axis is None:
        if ndim != 1:
            raise AxisError(
                f"axis is missing: {of} has {ndim} axes and the recurrence runs along one of them. "
                "Say which is time, for example axis=1 for (batch, time, channels)."
            )
        return 0
    if not -ndim <= axis < ndim:
        raise AxisError(
            f"axis {axis} is out of range: {of} has {ndim} axes, so {-ndim} to {ndim - 1} exist."
        )
    return axis % ndim


def time_axis(axis: object, shape: Shape, of: str) -> int:
    """The same in an array whose last axis is that of features, which is not time."""
    index = normalize_axis(axis_index(axis), len(shape), of)
    if index == len(shape) - 1:
        raise AxisError(
            f"axis {axis} of {of} with shape {shape} is that of the features; time must be another one."
        )
    return index


def check_state(name: str, given: Shape, shape: Shape, axis: int) -> None:
    """Raise `ShapeError` unless a state of shape `given` broadcasts to `shape` without `axis`."""
    state_shape = shape[:axis] + shape[axis + 1 :]
    fits = len(given) <= len(state_shape) and all(
        m == 1 or m == n
        for m, n in zip(given, state_shape[len(state_shape) - len(given) :], strict=True)
    )
    if not fits:
        raise ShapeError(
            f"{name} has shape {given}, but a state has shape {state_shape}: the result's shape {shape} without "
            f"axis {axis}. Give {name} that shape or one that broadcasts to it."
        )


def dtype_code(name: str, operand: str) -> int:
    """The native code of a dtype; `operand` is the argument's name, for the error."""
    try:
        return DTYPES[name][0]
    except KeyError:
        raise DTypeError(
            f"{operand} has dtype {name}, but scanlib computes in {', '.join(DTYPES)}. Convert {operand} first."
        ) from None


def broadcast_strides(shape: Shape, strides: Shape, target: Shape) -> Shape:
    """Strides of an array seen at shape `target`: 0 along every axis it is repeated on, and along no other.

    NumPy and CuPy give an array without elements strides of 0.
    """
    missing = len(target) - len(shape)
    return (0,) * missing + tuple(
        0 if length == 1 and wanted != 1 else stride if length else 1
        for length, stride, wanted in zip(shape, strides, target[missing:], strict=True)
    )


def state_strides(shape: Shape, strides: Shape, problem: Problem) -> Shape:
    """Strides of a state (h0, final or a gradient of them) with an unused entry put in at the time axis."""
    merged = broadcast_strides(shape, strides, problem.state_shape)
    return (*merged[: problem.axis], 0, *merged[problem.axis :])


def contiguous_strides(shape: Shape) -> Shape:
    """Element strides of a C-contiguous array."""
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step)
        step *= max(length, 1)
    return tuple(reversed(strides))


def reduced_axes(shape: Shape, target: Shape) -> tuple[int, ...]:
    """The axes of `target` along which an array of `shape` was broadcast, so along which its gradient is summed."""
    missing = len(target) - len(shape)
    return tuple(
        axis
        for axis in range(len(target))
        if axis < missing or (shape[axis - missing] == 1 and target[axis] != 1)
    )
