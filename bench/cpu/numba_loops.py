"""The recurrence as one would write it with numba: plain loop nests, compiled, over all cores."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from bench.core.shapes import Array, Case
from bench.core.timing import timed


@numba.njit(parallel=True)  # type: ignore[untyped-decorator,unused-ignore]
def rows(a: Array, x: Array, h: Array) -> None:
    """(outer, T, 1): a core takes whole sequences."""
    for i in numba.prange(x.shape[0]):
        state = x.dtype.type(0)
        for t in range(x.shape[1]):
            state = a[i, t, 0] * state + x[i, t, 0]
            h[i, t, 0] = state


@numba.njit(parallel=True)  # type: ignore[untyped-decorator,unused-ignore]
def whole_rows(a: Array, x: Array, h: Array) -> None:
    """(outer, T, inner): a core takes an outer index and walks its rows of channels."""
    for i in numba.prange(x.shape[0]):
        for c in range(x.shape[2]):
            h[i, 0, c] = x[i, 0, c]
        for t in range(1, x.shape[1]):
            for c in range(x.shape[2]):
                h[i, t, c] = a[i, t, c] * h[i, t - 1, c] + x[i, t, c]


@numba.njit(parallel=True)  # type: ignore[untyped-decorator,unused-ignore]
def channel_blocks(a: Array, x: Array, h: Array) -> None:
    """(outer, T, inner): a core takes a block of channels of one outer index."""
    outer, T, inner = x.shape
    blocks = min(inner, numba.get_num_threads())
    width = (inner + blocks - 1) // blocks
    for job in numba.prange(outer * blocks):
        i, first = job // blocks, (job % blocks) * width
        last = min(first + width, inner)
        state = np.zeros(max(last - first, 0), x.dtype)
        for t in range(T):
            row_a, row_x, row_h = a[i, t, first:last], x[i, t, first:last], h[i, t, first:last]
            for c in range(state.shape[0]):
                state[c] = row_a[c] * state[c] + row_x[c]
                row_h[c] = state[c]


def choose(case: Case) -> Callable[[Any, Any], Array]:
    """A function of (a, x) that runs the fastest of the loop nests above; its first call finds out which."""
    outer, inner = math.prod(case.shape[: case.axis]), math.prod(case.shape[case.axis + 1 :])
    full = (outer, case.shape[case.axis], inner)
    candidates = [rows] if inner == 1 else [whole_rows, channel_blocks]

    def run(a: Array, x: Array) -> Array:
        if len(candidates) > 1:
            candidates.sort(key=lambda loop: trial(loop, a, x))
            del candidates[1:]
        return apply(candidates[0], a, x)

    def trial(loop: Callable[..., None], a: Array, x: Array) -> float:
        return min(timed(functools.partial(apply, loop, a, x)) for _ in range(3))

    def apply(loop: Callable[..., None], a: Array, x: Array) -> Array:
        h = np.empty(case.shape, x.dtype)
        loop(a.reshape(full), x.reshape(full), h.reshape(full))
        return h

    return run
