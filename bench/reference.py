"""The serial loop that results are checked against, and the check."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bench.shapes import Array, Case

WINDOW = 1024
SEQUENCES = 8
#: bytes of an element -> largest error allowed, as a share of the largest value
TOLERANCE = {2: 2e-2, 4: 1e-4, 8: 1e-10}


class WrongResultError(Exception):
    """A benchmark candidate computed something else."""


def serial(a: Array, x: Array, h0: Array | float = 0.0, dtype: Any = np.float64) -> Array:
    """`h[t] = a[t] * h[t-1] + x[t]` along the first axis, step by step in `dtype`."""
    h = np.empty(x.shape, dtype)
    state = np.broadcast_to(np.asarray(h0, dtype), x.shape[1:])
    for t, (decay, impulse) in enumerate(zip(a.astype(dtype), x.astype(dtype), strict=True)):
        h[t] = state = decay * state + impulse
    return h


def check(case: Case, name: str, h: Array, a: Array, x: Array) -> None:
    """Compare `h` with the float64 loop on a slice, or raise `WrongResultError`.

    The slice is the start, middle and end of a few sequences, the first and the last among them. The later two windows
    start from the state that `h` itself has before them, so a fault inside one shows as clearly as at the start.
    """
    if h.shape != case.shape:
        raise WrongResultError(
            f"{name} on {case.name} returned shape {h.shape}; expected {case.shape}."
        )
    h, a, x = (_sequences(np.broadcast_to(array, case.shape), case) for array in (h, a, x))
    T = h.shape[0]
    tolerance = TOLERANCE[x.dtype.itemsize]
    for start in sorted({0, max(0, T // 2 - WINDOW // 2), max(0, T - WINDOW)}):
        stop = min(start + WINDOW, T)
        before = h[start - 1].astype(np.float64) if start else 0.0
        expected = serial(a[start:stop], x[start:stop], before)
        error = float(
            np.max(np.abs(h[start:stop].astype(np.float64) - expected)) / np.max(np.abs(expected))
        )
        if not error <= tolerance:  # NaN too
            raise WrongResultError(
                f"{name} on {case.name}: steps {start} to {stop} differ from the float64 loop by {error:.2g} of its "
                f"largest value; at most {tolerance:.0e} was expected. The result is not timed."
            )


def check_gradients(
    case: Case, name: str, grad_a: Array, grad_x: Array, h: Array, a: Array, grad_h: Array
) -> None:
    """Compare both gradients with their definition on the same slice.

    grad_x is itself a recurrence, run the other way with `a` one step ahead; grad_a is grad_x times the state before.
    """
    backward = Case(case.shape, case.axis, not case.reverse, case.layout)
    ahead = np.roll(np.broadcast_to(a, case.shape), 1 if case.reverse else -1, case.axis)
    check(backward, f"grad_x of {name}", grad_x, ahead, grad_h)
    a_slice, x_slice, h_slice = (
        _sequences(array, case).astype(np.float64) for array in (grad_a, grad_x, h)
    )
    expected = x_slice * np.concatenate([np.zeros_like(h_slice[:1]), h_slice[:-1]])
    tolerance = TOLERANCE[grad_a.dtype.itemsize]
    error = float(np.max(np.abs(a_slice - expected)) / np.max(np.abs(expected)))
    if not error <= tolerance:
        raise WrongResultError(
            f"grad_a of {name} on {case.name} differs from grad_x * h by {error:.2g} of its largest value; at most "
            f"{tolerance:.0e} was expected. The result is not timed."
        )


def _sequences(array: Array, case: Case) -> Array:
    """A few sequences as (T, sequences), in the order the recurrence walks them."""
    rows = np.moveaxis(array, case.axis, 0)
    if case.reverse:
        rows = rows[::-1]
    shape = rows.shape[1:]
    if not shape:
        return rows[:, None]
    flat = np.unique(np.linspace(0, math.prod(shape) - 1, SEQUENCES).astype(np.int64))
    index: Any = (slice(None), *np.unravel_index(flat, shape))
    return rows[index]
