"""Operands as strided views: what a slice, transpose, flip or broadcast was taken of, instead of its copy.

XLA hands a custom call dense arrays, so the halves of a projection would be copied first, which costs more than the
recurrence itself. When a program is lowered, the operation behind each operand can be seen: where it only rearranges an
array that lies in memory anyway, the call is given that array, and the rearrangement as an attribute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jax.core import ShapedArray
from jax.interpreters import mlir

from scanlib.backends.jax.internals import integers, operation
from scanlib.plan import contiguous_strides

#: Results of these operations are in memory whoever reads them. Others XLA computes where they are read, so that a copy
#: costs nothing.
STORED = ("stablehlo.dot_general", "stablehlo.convolution", "stablehlo.custom_call")


@dataclass(frozen=True, slots=True)
class View:
    """An array inside a dense one: its shape, the element its first one is, and its strides in elements."""

    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...]

    @classmethod
    def dense(cls, shape: Sequence[int]) -> View:
        return cls(tuple(shape), 0, contiguous_strides(tuple(shape)))

    def is_all_of(self, shape: Sequence[int]) -> bool:
        """Whether this is the whole of a dense array of `shape`, perhaps with more or fewer axes of extent 1."""
        own = zip(self.shape, self.strides, contiguous_strides(self.shape), strict=True)
        dense = all(n == 1 or stride == expected for n, stride, expected in own)
        return dense and math.prod(self.shape) == math.prod(shape)


def look_through(value: Any) -> tuple[Any, View]:
    """The MLIR value that holds the elements of `value`, and where in it they are.

    It is `value` itself where something is computed on the way, or where it is dense anyway.
    """
    own = value, View.dense(value.type.shape)
    steps = []
    while (step := operation(value)) is not None and step.name in _STEPS:
        steps.append(step)
        value = step.operands[0]
    if not steps or (step is not None and step.name not in STORED):
        return own
    view = View.dense(value.type.shape)
    for step in reversed(steps):
        moved = _STEPS[step.name](view, step)
        if moved is None:
            return own
        view = moved
    return own if view.is_all_of(value.type.shape) else (value, view)


@dataclass(frozen=True, slots=True)
class Viewed:
    """A traced array and what part of it is meant: an operand of that part's shape."""

    array: Any
    view: View

    @property
    def shape(self) -> tuple[int, ...]:
        return self.view.shape

    @property
    def dtype(self) -> Any:
        return self.array.dtype


def strides_of(value: Any) -> tuple[int, ...]:
    """In elements; anything but a `Viewed` is dense."""
    return value.view.strides if isinstance(value, Viewed) else contiguous_strides(value.shape)


def call_attributes(operands: Iterable[Any]) -> tuple[list[Any], list[int]]:
    """The arrays to hand over, and for the handler of each its number of axes, first element, extents and strides.

    No numbers at all where every operand is dense.
    """
    operands = list(operands)
    arrays = [v.array if isinstance(v, Viewed) else v for v in operands]
    numbers: list[int] = []
    if any(isinstance(v, Viewed) for v in operands):
        for value in operands:
            view = value.view if isinstance(value, Viewed) else View.dense(value.shape)
            numbers += (len(view.shape), view.offset, *view.shape, *view.strides)
    return arrays, numbers


def lower(
    call: Callable[..., list[Any]], ctx: Any, operands: Sequence[Any], params: dict[str, Any]
) -> Any:
    """Lower `call(*operands, **params)`, with a `Viewed` for each operand that is a view of something else."""
    seen = _seen_through(ctx, operands)
    if seen is not None:
        bases, views, avals = seen

        def viewed(*arrays: Any, **params: Any) -> list[Any]:
            given = (
                array if view is None else Viewed(array, view)
                for array, view in zip(arrays, views, strict=True)
            )
            return call(*given, **params)

        ctx = ctx.replace(avals_in=avals)
        return mlir.lower_fun(viewed, multiple_results=True)(ctx, *bases, **params)
    return mlir.lower_fun(call, multiple_results=True)(ctx, *operands, **params)


def _seen_through(
    ctx: Any, operands: Sequence[Any]
) -> tuple[list[Any], list[View | None], list[Any]] | None:
    """(values, views, abstract values), or None where there is nothing to see through, or extents are left open."""
    if not all(isinstance(n, int) for aval in ctx.avals_in for n in aval.shape):
        return None
    seen = [look_through(value) for value in operands]
    views = [
        None if base is value else view for value, (base, view) in zip(operands, seen, strict=True)
    ]
    if not any(views):
        return None
    avals = [
        aval if view is None else ShapedArray(tuple(base.type.shape), aval.dtype)
        for aval, (base, _), view in zip(ctx.avals_in, seen, views, strict=True)
    ]
    return [base for base, _ in seen], views, avals


def _slice(view: View, step: Any) -> View:
    start, steps = integers(step, "start_indices"), integers(step, "strides")
    offset = view.offset + sum(i * stride for i, stride in zip(start, view.strides, strict=True))
    strides = tuple(n * stride for n, stride in zip(steps, view.strides, strict=True))
    return View(tuple(step.result.type.shape), offset, strides)


def _transpose(view: View, step: Any) -> View:
    order = integers(step, "permutation")
    return View(
        tuple(view.shape[d] for d in order), view.offset, tuple(view.strides[d] for d in order)
    )


def _reverse(view: View, step: Any) -> View:
    offset, strides = view.offset, list(view.strides)
    for d in integers(step, "dimensions"):
        offset += max(view.shape[d] - 1, 0) * strides[d]
        strides[d] = -strides[d]
    return View(view.shape, offset, tuple(strides))


def _broadcast(view: View, step: Any) -> View:
    shape = tuple(step.result.type.shape)
    strides = [0] * len(shape)
    for d, to in enumerate(integers(step, "broadcast_dimensions")):
        strides[to] = view.strides[d] if view.shape[d] == shape[to] else 0
    return View(shape, view.offset, tuple(strides))


def _reshape(view: View, step: Any) -> View | None:
    """Axes of extent 1 come and go; nothing else keeps one stride an axis."""
    shape = tuple(step.result.type.shape)
    if [n for n in shape if n != 1] != [n for n in view.shape if n != 1]:
        return None
    left = iter([s for n, s in zip(view.shape, view.strides, strict=True) if n != 1])
    return View(shape, view.offset, tuple(0 if n == 1 else next(left) for n in shape))


_STEPS: dict[str, Callable[[View, Any], View | None]] = {
    "stablehlo.slice": _slice,
    "stablehlo.transpose": _transpose,
    "stablehlo.reverse": _reverse,
    "stablehlo.broadcast_in_dim": _broadcast,
    "stablehlo.reshape": _reshape,
}
