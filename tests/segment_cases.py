"""Recurrences with sequences that start inside the time axis: a serial loop, and arrays for libscanlib as they are."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from matrix import np_dtype

from scanlib import gpu, native
from scanlib.call import dtype_of
from scanlib.roles import STATES

Array = np.ndarray[Any, Any]
#: Offsets that are none, of a time axis of 201.
LIES: dict[str, list[int]] = {
    "negative": [-5, -2, 30, 201],
    "past the end": [0, 30, 500, 1 << 40],
    "not in order": [150, 20, 190, 3, 80, 0],
    "late and early": [40, 50, 60],
    "the largest": [-(1 << 63), (1 << 63) - 1, -(1 << 63), 100, (1 << 63) - 1],
    "of no segment": [70],
    "all the same": [201] * 40,
}


def _wide(array: Array | None) -> Array | None:
    if array is None or array.dtype.kind in "bi":
        return array
    return array.astype(complex if array.dtype.kind == "c" else float)


def sequences(length: int, reverse: bool, offsets: Array | None) -> list[range]:
    """The steps of each, in the order in which they are taken."""
    ends = [0, length] if offsets is None else offsets.tolist()
    steps = [range(*pair) for pair in itertools.pairwise(ends)]
    return [each[::-1] for each in steps] if reverse else steps


def states_first(given: dict[str, Array], axis: int, shape: tuple[int, ...]) -> dict[str, Array]:
    """All arrays in the shape of the result, with time in front, or segments; a state of all is that of one segment."""
    moved = {}
    for name, array in given.items():
        array = _wide(array)
        if name == "offsets":
            moved[name] = array
        elif name in STATES:
            many = array if "offsets" in given else np.expand_dims(array, axis)
            moved[name] = np.moveaxis(many, axis, 0)
        else:
            moved[name] = np.moveaxis(np.broadcast_to(array, shape), axis, 0)
    return moved


def serial(
    given: dict[str, Array], axis: int, reverse: bool, shape: tuple[int, ...]
) -> dict[str, Array]:
    """h and final, or from grad_h grad_a of the full shape, grad_x and grad_h0, in double precision."""
    v = states_first(given, axis, shape)
    a, reset = v["a"], v.get("reset", np.zeros(1, bool))
    steps = sequences(len(a), reverse, v.get("offsets"))
    like = np.result_type(*(array for name, array in v.items() if array.dtype.kind not in "bi"))
    nothing = np.zeros(a.shape[1:], like)
    reset = np.broadcast_to(reset, a.shape)
    backward = "grad_h" in given
    leaving = np.zeros((len(steps), *nothing.shape), like)
    first, grad_a = np.zeros(a.shape, like), np.zeros(a.shape, like)
    for number, taken in enumerate(steps):
        h0 = v["h0"][number] if "h0" in v else nothing
        if not backward:
            state = h0
            for t in taken:
                state = first[t] = np.where(reset[t], v["x"][t], a[t] * state + v["x"][t])
        else:
            state = v["grad_final"][number] if "grad_final" in v else nothing
            for place in reversed(range(len(taken))):
                t = taken[place]
                before = v["h"][taken[place - 1]] if place else h0
                grad = first[t] = v["grad_h"][t] + state
                grad_a[t] = np.where(reset[t], 0, grad * before)
                state = np.where(reset[t], 0, a[t] * grad)
        leaving[number] = state
    names = ("grad_x", "grad_h0") if backward else ("h", "final")
    found = {names[0]: np.moveaxis(first, 0, axis)}
    last = np.moveaxis(leaving, 0, axis)
    found[names[1]] = last if "offsets" in given else np.take(last, 0, axis)
    return found | ({"grad_a": np.moveaxis(grad_a, 0, axis)} if backward else {})


def problem_of(
    shape: tuple[int, ...], axis: int, arrays: dict[str, Array], **options: Any
) -> tuple[native.NativeProblem, bytes]:
    """The problem of arrays by role, and their addresses."""
    packed = "offsets" in arrays
    rows = {}
    for name, array in arrays.items():
        if name == "offsets":
            strides = [0] * len(shape)
            strides[axis] = array.strides[0]
        elif name in STATES:
            strides = list(array.strides)
            if not packed:
                strides.insert(axis, 0)
        else:
            # A gradient that is summed has stride 0 where its length is 1.
            strides = list(np.broadcast_to(array, shape).strides)
        rows[name] = (dtype_of(str(array.dtype), name)[0], strides)
    segments = len(arrays["offsets"]) - 1 if packed else 0
    problem = native.prepare(
        shape, axis, rows, segments=segments, tuning=gpu.target().tuning, **options
    )
    return problem, native.pack({name: array.ctypes.data for name, array in arrays.items()})


def results_for(
    given: dict[str, Array], axis: int, shape: tuple[int, ...], dtype: str
) -> dict[str, Array]:
    """Arrays for all that a pass writes, full of NaN."""
    segments = (len(given["offsets"]) - 1,) if "offsets" in given else ()
    state = (*shape[:axis], *segments, *shape[axis + 1 :])
    names = {"h": shape, "final": state}
    if "grad_h" in given:
        names = {"grad_x": shape, "grad_h0": state, "grad_a": given["a"].shape}
    return {name: np.full(extents, np.nan, np_dtype(dtype)) for name, extents in names.items()}
