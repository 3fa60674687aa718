"""The serial loop that results are checked against, and the check: one for every library and device.

A result is compared in slices, at the ends and across every eighth, where the boundaries of tiles of any power of two
fall; a few sequences each. The loop runs into each slice from so far ahead that what was before has decayed to nothing,
so it owes nothing to the result that it judges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from bench.core.shapes import Array, Case

WINDOW = 4096  # steps of a slice
EIGHTHS = 8
SEQUENCES = 8
RUN_IN = 256  # steps ahead of a slice, doubled until the decays there leave nothing
#: bytes of an element -> largest error allowed, as a share of the largest value
TOLERANCE = {2: 2e-2, 4: 1e-4, 8: 1e-10}

#: Arrays of integers, one for each axis of a case, that broadcast to (steps, columns).
Index = tuple[Array, ...]
#: The values of an operand or a result at an index, as float64.
Read = Callable[[Index], Array]


class WrongResultError(Exception):
    """A benchmark candidate computed something else."""


def serial(a: Array, x: Array, h0: Array | float = 0.0, dtype: Any = np.float64) -> Array:
    """`h[t] = a[t] * h[t-1] + x[t]` along the first axis, step by step in `dtype`."""
    h = np.empty(x.shape, dtype)
    state = np.broadcast_to(np.asarray(h0, dtype), x.shape[1:])
    for t, (decay, impulse) in enumerate(zip(a.astype(dtype), x.astype(dtype), strict=True)):
        h[t] = state = decay * state + impulse
    return h


def check(case: Case, name: str, itemsize: int, h: Read, a: Read, x: Read) -> None:
    """Compare `h` with the float64 loop on slices, or raise `WrongResultError`; `itemsize` is that of `h` in bytes."""
    tolerance = TOLERANCE[itemsize]
    for look in _looks(case):
        index = look.index(case)
        decays = a(index)
        if look.forgotten(decays, 1e-3 * tolerance):
            break
    expected = serial(decays, x(index))
    off = _error(h(index), expected, look.compared)
    if not off <= tolerance:  # NaN too
        raise WrongResultError(
            f"{name} on {case.name} differs from the float64 loop by {off:.2g} of its largest value; at most "
            f"{tolerance:.0e} was expected. The result is not timed."
        )


def check_gradients(
    case: Case, name: str, itemsize: int, grad_a: Read, grad_x: Read, h: Read, a: Read, grad_h: Read
) -> None:
    """Compare both gradients with their definition on the same slices.

    grad_x is itself a recurrence, run the other way with `a` one step ahead; grad_a is grad_x times the state before.
    `h` has been checked by itself.
    """
    T, ahead = case.shape[case.axis], -1 if case.reverse else 1
    backward = Case(case.shape, case.axis, not case.reverse, case.layout)
    after, before = (lambda read, by=by: _shifted(read, case.axis, T, by) for by in (ahead, -ahead))
    check(backward, f"grad_x of {name}", itemsize, grad_x, after(a), grad_h)
    look = next(_looks(case))
    index = look.index(case)
    expected = grad_x(index) * before(h)(index)
    off, tolerance = _error(grad_a(index), expected, look.compared), TOLERANCE[itemsize]
    if not off <= tolerance:
        raise WrongResultError(
            f"grad_a of {name} on {case.name} differs from grad_x * h by {off:.2g} of its largest value; at most "
            f"{tolerance:.0e} was expected. The result is not timed."
        )


class _Look(NamedTuple):
    """Slices side by side: where each begins with its run-in, in steps of the recurrence, and which steps count."""

    first: Array  # (slices,)
    compared: Array  # (steps, slices, 1), of bool

    def index(self, case: Case) -> Index:
        """Every step of every slice, for a few sequences: (steps, slices * sequences)."""
        steps = self.first + np.arange(len(self.compared))[:, None]
        if case.reverse:
            steps = case.shape[case.axis] - 1 - steps
        rest = np.delete(case.shape, case.axis)
        count = math.prod(int(n) for n in rest)
        chosen = np.unique(np.linspace(0, count - 1, SEQUENCES).astype(np.int64))
        lanes = np.unravel_index(chosen, tuple(rest)) if len(rest) else ()
        slices = len(self.first)
        index = [np.tile(lane, slices)[None] for lane in lanes]
        index.insert(case.axis, np.repeat(steps, len(chosen), axis=1))
        return tuple(index)

    def forgotten(self, decays: Array, share: float) -> bool:
        """Whether what was before a slice is less than this share of itself when the slice begins."""
        ahead = decays.reshape(*self.compared.shape[:2], -1)
        with np.errstate(divide="ignore"):
            decayed = np.where(self.compared, 0.0, np.log(np.abs(ahead))).sum(0)
        return bool(np.all((decayed <= math.log(share)) | (self.first == 0)[:, None]))


def _looks(case: Case) -> Iterator[_Look]:
    """Slices with longer and longer run-ins, the last of which is the whole sequence from its first step."""
    T, run_in = case.shape[case.axis], RUN_IN
    middles = [k * T // EIGHTHS - WINDOW // 2 for k in range(1, EIGHTHS)]
    while WINDOW + run_in < T:
        steps = WINDOW + run_in
        starts = np.unique(np.clip([0, *middles, T - WINDOW], 0, T - WINDOW))
        first = np.clip(starts - run_in, 0, T - steps)
        at = first + np.arange(steps)[:, None]
        yield _Look(first, ((at >= starts) | (first == 0))[..., None])
        run_in *= 2
    yield _Look(np.zeros(1, np.int64), np.ones((T, 1, 1), bool))


def _error(actual: Array, expected: Array, compared: Array) -> float:
    """The largest error where it counts, as a share of the largest value there."""
    shape = (*compared.shape[:2], -1)
    off = np.abs(actual - expected).reshape(shape)
    size = np.abs(expected).reshape(shape)
    return float(np.max(off, where=compared, initial=0) / np.max(size, where=compared, initial=0))


def _shifted(read: Read, axis: int, T: int, by: int) -> Read:
    """The values so many places further along the axis, and zeros outside."""

    def shifted(index: Index) -> Array:
        moved = index[axis] + by
        inside = (moved >= 0) & (moved < T)
        at = (*index[:axis], np.clip(moved, 0, T - 1), *index[axis + 1 :])
        return np.where(inside, read(at), 0.0)

    return shifted
