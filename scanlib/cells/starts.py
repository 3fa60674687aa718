"""Where sequences start along the axis of time: what the parts of a cell need to know of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from scanlib.call import (
    Shape,
    check_offsets,
    check_one_device,
    check_sequences,
    dtype_code,
    resolve,
)
from scanlib.cells.functions import at, delay, device_of, namespace, within, zeros
from scanlib.kinds import kind_of
from scanlib.offsets import host_offsets

Array = Any


class Starts(NamedTuple):
    """Sequences along the axis of time of steps (..., T, ...).

    Attributes
    ----------
    axis : int
        That of time, counted from the front.
    reset : boolean array, shape of the steps, or None
        True where a sequence starts inside the axis.
    offsets : integers, shape (N + 1,), or None
        Where sequences start that have states of their own. States have N in the place of T then.
    step : integers, shape (T,), or None
        With offsets, the number of each step in its sequence, from 0.
    sequence : integers, shape (T,), or None
        With offsets, the sequence of each step.
    """

    axis: int
    reset: Array | None = None
    offsets: Array | None = None
    step: Array | None = None
    sequence: Array | None = None

    def arguments(self) -> dict[str, Array]:
        """What `scanlib.linear_recurrence` is told, for arrays with an axis of features behind the steps."""
        if self.offsets is not None:
            return {"offsets": self.offsets}
        if self.reset is not None:
            return {"reset": namespace(self.reset).expand_dims(self.reset, axis=-1)}
        return {}

    def delay(self, v: Array, first: Array | None, nothing: float = 0.0) -> Array:
        """v one step later: before the first step of all or of each of the offsets `first`, or `nothing` without it.

        v is (..., T, ..., n); by a reset too a sequence starts from `nothing`.
        """
        xp = namespace(v)
        none = nothing + zeros((), v)
        if self.offsets is None:
            if first is None and nothing:
                first = none + zeros((*v.shape[: self.axis], *v.shape[self.axis + 1 :]), v)
            moved = delay(v, first, self.axis)
            start: Array = none
        else:
            moved = delay(v, None, self.axis)
            start = none if first is None else self.spread(xp.astype(first, v.dtype, copy=False))
        if self.reset is None and self.offsets is None:
            return moved
        return xp.where(self.first_steps(v.ndim), start, moved)

    def first_steps(self, ndim: int) -> Array:
        """Where any sequence starts but the first of all without offsets: to be broadcast to (..., T, ..., n)."""
        if self.offsets is not None:
            return self.along(self.step == 0, ndim)
        return namespace(self.reset).expand_dims(self.reset, axis=-1)

    def last(self, v: Array, first: Array | None, nothing: float = 0.0) -> Array:
        """v after the last step of all, or of each of the offsets.

        After a sequence of no steps it is `first`, or `nothing` without it.
        """
        if self.offsets is None:
            return at(v, self.axis, -1)
        xp, ends = namespace(v), self.ends()
        taken = xp.take(v, within(ends - 1, v.shape[self.axis] - 1), axis=self.axis)
        empty = self.along(ends == self.begins(), v.ndim)
        return xp.where(empty, nothing + zeros((), v) if first is None else first, taken)

    def begins(self) -> Array:
        """The first step of each sequence of offsets."""
        assert self.offsets is not None
        return self.offsets[:-1]

    def ends(self) -> Array:
        """The step behind the last of each."""
        assert self.offsets is not None
        return self.offsets[1:]

    def spread(self, state: Array) -> Array:
        """A state of each sequence (..., N, ...) at all of its steps (..., T, ...)."""
        return namespace(state).take(state, self.sequence, axis=self.axis)

    def along(self, numbers: Array, ndim: int) -> Array:
        """Numbers of an axis as an array of `ndim` axes, of which that of time is theirs."""
        shape = (1,) * self.axis + (-1,) + (1,) * (ndim - self.axis - 1)
        return namespace(numbers).reshape(numbers, shape)

    def lead(self, x: Array) -> Shape:
        """The shape of a state before steps x (..., T, ..., m), without its features."""
        states = self.states()
        along = () if states is None else (states,)
        return (*x.shape[: self.axis], *along, *x.shape[self.axis + 1 : -1])

    def states(self) -> int | None:
        """How many states there are in the place of the axis of time; None where they have no such axis."""
        return None if self.offsets is None else self.offsets.shape[0] - 1


def starts_of(x: Array, axis: int, reset: Array | None, offsets: Array | None) -> Starts:
    """Those of steps x (..., T, ..., m); `offsets` of the library of x, checked by what reads them."""
    if offsets is None:
        return Starts(axis, reset)
    xp, count = namespace(x), offsets.shape[0] - 1
    number = xp.arange(x.shape[axis], device=device_of(x))
    offsets = xp.astype(offsets, number.dtype, copy=False)
    if count == 0:
        return Starts(axis, None, offsets, number, number)
    # The last of those that start at or before a step: of several that start there, all but that one are empty.
    sequence = xp.searchsorted(offsets[1:], number, side="right")
    sequence = xp.astype(sequence, number.dtype, copy=False)
    sequence = within(sequence, count - 1)
    step = number - xp.take(offsets, sequence, axis=0)
    return Starts(axis, None, offsets, step, sequence)


def offsets_of(x: Array, axis: int, reset: Array | None, offsets: Any) -> Array | None:
    """Offsets of steps x (..., T, ..., m) as integers of its library, on its device; None stays None.

    Raises `ShapeError`, `DTypeError` where they are no integers, or `DeviceError`; the values of an array of the
    library are checked by what reads them.
    """
    if offsets is None:
        return None
    xp = namespace(x)
    if not hasattr(offsets, "shape") or kind_of(offsets, "offsets") != kind_of(x, "x"):
        counts = host_offsets(offsets)
        check_offsets(counts, x.shape[axis])
        offsets = xp.asarray(counts.astype(np.int64), device=device_of(x))
    elif not xp.isdtype(offsets.dtype, "integral"):
        dtype_code(str(offsets.dtype).rpartition(".")[2], "offsets")
    elif kind_of(x) == "torch":  # elsewhere what is computed of both says so
        places = {name: str(device_of(v)) for name, v in (("x", x), ("offsets", offsets))}
        check_one_device(places, "tensors", "Move them with .to(device).")
    steps = tuple(x.shape)[:-1]
    given = None if reset is None else steps
    resolve.__wrapped__(steps, steps, None, axis, given, tuple(offsets.shape))
    check_sequences(offsets.shape[0] - 1, steps[axis])
    return offsets
