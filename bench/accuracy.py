"""float32 errors of ours and of the serial float32 loop, both against the serial float64 loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import scanlib
from bench.reference import serial
from bench.shapes import Array

Row = dict[str, Any]
#: (T, channels), the time axis first or last
SHAPES = [((4096, 64), 0), ((65536, 16), 0), ((64, 4096), 1), ((16, 65536), 1), ((2**18,), 0)]


def _near_one(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return (1 - 10 ** -(1 + 4 * random.random(shape))).astype(np.float32)


#: how `a` is drawn: fading, changing sign, and long memories
DECAYS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
    "uniform in [0, 1)": lambda random, shape: random.random(shape, np.float32),
    "uniform in [-1, 1)": lambda random, shape: 2 * random.random(shape, np.float32) - 1,
    "1 - 10^-k, k in [1, 5)": _near_one,
}


def jobs() -> Iterator[tuple[str, Callable[[], Row]]]:
    """Every comparison as (title, function that makes it)."""
    for shape, axis in SHAPES:
        for decay in DECAYS:
            yield f"accuracy {shape} axis {axis}, a {decay}", _job(shape, axis, decay)


def _job(shape: tuple[int, ...], axis: int, decay: str) -> Callable[[], Row]:
    return lambda: compare(shape, axis, decay)


def compare(shape: tuple[int, ...], axis: int, decay: str) -> Row:
    """Root mean square and largest error as shares of the largest true value."""
    random = np.random.default_rng(0)
    a, x = DECAYS[decay](random, shape), random.standard_normal(shape, np.float32)
    h = np.moveaxis(scanlib.linear_recurrence(a, x, axis=axis), axis, 0)
    a, x = np.moveaxis(a, axis, 0), np.moveaxis(x, axis, 0)
    truth, loop = serial(a, x), serial(a, x, dtype=np.float32)
    scale = float(np.max(np.abs(truth)))
    errors = {
        name: np.abs(value - truth) / scale for name, value in (("ours", h), ("serial", loop))
    }
    rms = {name: float(np.sqrt(np.mean(error**2))) for name, error in errors.items()}
    largest = {name: float(np.max(error)) for name, error in errors.items()}
    return {
        "shape": list(shape),
        "axis": axis,
        "a": decay,
        "rms_error": rms,
        "largest_error": largest,
        "rms_ratio": rms["ours"] / rms["serial"],
        "largest_ratio": largest["ours"] / largest["serial"],
    }
