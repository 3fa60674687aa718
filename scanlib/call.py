"""From arguments to a call: shapes, axes and dtypes, which every adapter has checked here.

Nothing here knows an array library.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scanlib.errors import (
    AxisError,
    AxisTypeError,
    DeviceError,
    DTypeError,
    OffsetsError,
    ShapeError,
)
from scanlib.roles import STATES

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


#: The same of what is not computed with, by the operand it is.
RESET_DTYPES = {"bool": (7, 1)}
OFFSETS_DTYPES = {"int32": (8, 4), "int64": (9, 8)}


@dataclass(frozen=True, slots=True)
class Call:
    """A recurrence, or its gradient, over arrays of known shapes.

    Attributes
    ----------
    shape
        The broadcast shape of `a` and `x`, and so of `h`.
    axis
        The time axis, counted from the front.
    state_shape
        The shape of `h0` and of the final state: `shape` without `axis`, or with `segments` in its place.
    segments
        How many sequences `offsets` says lie one after the other along `axis`; None without `offsets`.
    """

    shape: Shape
    axis: int
    state_shape: Shape
    segments: int | None = None

    def shape_of(self, role: str) -> Shape:
        """The full shape of an operand: what it may be broadcast to."""
        if role == "offsets":
            return ((self.segments or 0) + 1,)
        return self.state_shape if role in STATES else self.shape


def call_of(shape: Shape, axis: int, segments: int | None = None) -> Call:
    """The call whose result has this shape, of one sequence or of `segments` along `axis`."""
    along = () if segments is None else (segments,)
    return Call(shape, axis, (*shape[:axis], *along, *shape[axis + 1 :]), segments)


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
def resolve(
    a: Shape,
    x: Shape,
    h0: Shape | None,
    axis: int | None,
    reset: Shape | None = None,
    offsets: Shape | None = None,
) -> Call:
    """Check shapes and axis; raise `ShapeError` or `AxisError`, or return the `Call`."""
    shape = broadcast_shapes(a, x)
    call = call_of(shape, normalize_axis(axis, len(shape)), _segments(reset, offsets))
    if h0 is not None:
        check_state("h0", h0, call)
    if reset is not None:
        _check_reset(reset, call)
    return call


@functools.lru_cache(maxsize=4096)
def resolve_vjp(
    grad_h: Shape,
    a: Shape,
    h: Shape,
    h0: Shape | None,
    grad_final: Shape | None,
    axis: int | None,
    reset: Shape | None = None,
    offsets: Shape | None = None,
) -> Call:
    """The same for `linear_recurrence_vjp`: `h` fixes the shape that all others must fit."""
    if grad_h != h:
        raise ShapeError(f"grad_h has shape {grad_h} and h has shape {h}; they must be equal.")
    # Uncached: tracing compilers come here with symbolic lengths.
    call = resolve.__wrapped__(a, h, h0, axis, reset, offsets)
    if call.shape != h:
        raise ShapeError(f"a has shape {a}, which does not broadcast to h's shape {h}.")
    if grad_final is not None:
        check_state("grad_final", grad_final, call)
    return call


def _segments(reset: Shape | None, offsets: Shape | None) -> int | None:
    """How many sequences `offsets` are those of."""
    if offsets is None:
        return None
    if reset is not None:
        raise ShapeError(
            "reset and offsets both say where sequences start: give one of them. Offsets are for a state of each, "
            "reset for starts that differ from one row of a batch to the next."
        )
    if len(offsets) != 1 or offsets[0] == 0:
        raise ShapeError(
            f"offsets has shape {offsets}; N sequences have N + 1 offsets on one axis, of which the first is 0 and the "
            "last the length of the axis of time."
        )
    return offsets[0] - 1


def check_offsets(offsets: Any, steps: int) -> None:
    """Raise `OffsetsError` where the values of a NumPy array are not offsets of so many steps."""
    lies = offsets.ndim != 1 or not offsets.size
    lies = (
        lies or offsets[0] != 0 or offsets[-1] != steps or bool((offsets[1:] < offsets[:-1]).any())
    )
    if lies:
        raise OffsetsError(
            f"offsets must begin at 0, never decrease, and end at the length of the axis of time, which is {steps}; "
            f"they are {offsets.tolist()}."
        )


def check_sequences(count: int, steps: int) -> None:
    """Raise `OffsetsError` where offsets are those of no sequence, but there are steps: what shapes tell of values."""
    if count == 0 and steps != 0:
        raise OffsetsError(
            f"offsets are those of no sequence, but the axis of time has {steps} steps; the last offset is their "
            "number."
        )


def _check_reset(reset: Shape, call: Call) -> None:
    if not _fits(reset, call.shape):
        raise ShapeError(
            f"reset has shape {reset}, which does not broadcast to the result's shape {call.shape}. Give it an axis "
            "of length 1 for each that all share, such as (batch, T, 1) for channels."
        )


def _fits(given: Shape, shape: Shape) -> bool:
    """Whether an array of shape `given` broadcasts to `shape`."""
    return len(given) <= len(shape) and all(
        m == 1 or m == n for m, n in zip(given, shape[len(shape) - len(given) :], strict=True)
    )


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


def check_state(name: str, given: Shape, call: Call) -> None:
    """Raise `ShapeError` unless a state of shape `given` broadcasts to those of `call`."""
    if not _fits(given, call.state_shape):
        where = f"without axis {call.axis}"
        if call.segments is not None:
            where = f"with the {call.segments} sequences of offsets on axis {call.axis}"
        raise ShapeError(
            f"{name} has shape {given}, but a state has shape {call.state_shape}: the result's shape {call.shape} "
            f"{where}. Give {name} that shape or one that broadcasts to it."
        )


def check_one_device(places: Mapping[str, Any], what: str, advice: str) -> None:
    """Raise `DeviceError` unless all places, of arguments by name, are equal; `advice` says how to move arrays."""
    first, *rest = places.values()
    if any(place != first for place in rest):
        given = ", ".join(f"{name} is on {place}" for name, place in places.items())
        raise DeviceError(f"All {what} must be on one device, but {given}. {advice}")


def dtype_code(name: str, operand: str) -> int:
    """The native code of a dtype; `operand` is the argument's name."""
    return dtype_of(name, operand)[0]


def dtype_of(name: str, operand: str) -> tuple[int, int]:
    """The native code of a dtype and bytes an element; `DTypeError` where the argument `operand` may not have it."""
    known = {"reset": RESET_DTYPES, "offsets": OFFSETS_DTYPES}.get(operand, DTYPES)
    try:
        return known[name]
    except KeyError:
        if operand == "reset":
            raise DTypeError(
                f"reset has dtype {name}, but it says yes or no of each step: make it boolean, such as reset != 0."
            ) from None
        if operand == "offsets":
            raise DTypeError(
                f"offsets has dtype {name}, but it counts steps: make it int32 or int64."
            ) from None
        raise DTypeError(
            f"{operand} has dtype {name}, but scanlib computes in {', '.join(DTYPES)}. Convert {operand} first."
        ) from None


def reduced_axes(shape: Shape, target: Shape) -> tuple[int, ...]:
    """The axes of `target` along which an array of `shape` was broadcast, so along which its gradient is summed."""
    missing = len(target) - len(shape)
    return tuple(
        axis
        for axis in range(len(target))
        if axis < missing or (shape[axis - missing] == 1 and target[axis] != 1)
    )
