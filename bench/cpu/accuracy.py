"""Errors of float32 recurrences beside those of a serial float32 loop, both against the serial float64 loop.

Slow decay over long time is where a parallel scan can lose what the loop keeps: products of many decays are rounded,
and then applied again and again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import scanlib
from bench.core.reference import serial
from bench.core.shapes import Array

Row = dict[str, Any]
Random = np.random.Generator
#: run(a, x, h0, axis) -> states, all of them arrays of this module's
Run = Callable[[Array, Array, Array, int], Array]

#: Half a unit in the last place: what rounding the true value itself can cost, so no loop is asked for less.
ROUNDING = 2.0**-24
#: The same of a complex product: sqrt(5) times that (Brent, Percival and Zimmermann 2007).
COMPLEX_ROUNDING = math.sqrt(5) * ROUNDING
LENGTHS = (10, 100, 1000, 30_000, 100_000, 1_000_000)
DTYPES = ("float32", "complex64")
#: What each does with (a, x, h0), in the direction of time or against it.
WORKS = ("forward", "reverse", "backward")


def _slow(random: Random, shape: tuple[int, int]) -> Array:
    """One decay for each sequence, from 0.5 to 1 - 1e-7."""
    return np.broadcast_to(1 - 10 ** -random.uniform(0.3, 7, (1, shape[1])), shape)


#: how the sizes of `a` of shape (T, sequences) are drawn
DECAYS: dict[str, Callable[[Random, tuple[int, int]], Array]] = {
    "uniform in (0.5, 1)": lambda random, shape: random.uniform(0.5, 1, shape),
    "uniform in (0.9999, 1)": lambda random, shape: random.uniform(0.9999, 1, shape),
    "uniform in (1 - 1e-6, 1)": lambda random, shape: random.uniform(1 - 1e-6, 1, shape),
    "constant near 0.999, x = 1": lambda random, shape: np.broadcast_to(
        random.uniform(0.998, 0.9995, (1, shape[1])), shape
    ),
    "constant, 0.5 to 1 - 1e-7": _slow,
}


class Case(NamedTuple):
    """One recurrence to compare on."""

    dtype: str
    decay: str
    T: int
    sequences: int
    work: str


class Inputs(NamedTuple):
    """`a` and `x` of shape (T, sequences) and `h0` of (sequences,), in the order of the axis."""

    a: Array
    x: Array
    h0: Array


def inputs(case: Case) -> Inputs:
    """The operands of a case: decays of random phase where complex, and normal inputs."""
    random = np.random.default_rng([case.T, case.sequences, *case.decay.encode()])
    shape = case.T, case.sequences
    a, x = DECAYS[case.decay](random, shape), random.standard_normal(shape)
    h0 = random.standard_normal(case.sequences)
    if case.decay.endswith("x = 1"):
        x, h0 = np.ones(shape), np.zeros(case.sequences)
    if case.dtype == "complex64":
        a = a * np.exp(1j * random.uniform(-math.pi, math.pi, (1, case.sequences)))
        x = x + 1j * random.standard_normal(shape)
    return Inputs(*(v.astype(case.dtype) for v in (a, x, h0)))


def _in_order(case: Case, given: Inputs) -> tuple[Array, Array]:
    """`a` and `x` of the recurrence that this work is, first step first."""
    a, x = given.a, given.x
    if case.work == "forward":
        return a, x
    a, x = a[::-1], x[::-1]
    # The gradient at a step is carried by the decay of the step after it; the first meets grad_final as it is.
    return (a, x) if case.work == "reverse" else (np.concatenate([a[:1] * 0 + 1, a[:-1].conj()]), x)


def truth_and_loop(case: Case, given: Inputs) -> tuple[Array, float]:
    """The float64 loop's states, in the order of the axis, and the largest error of the loop in the case's dtype."""
    a, x = _in_order(case, given)
    wide = np.complex128 if case.dtype == "complex64" else np.float64
    truth, loop = (serial(a, x, given.h0, dtype) for dtype in (wide, np.dtype(case.dtype)))
    return (truth if case.work == "forward" else truth[::-1]), error(loop, truth)


def error(h: Array, truth: Array) -> float:
    """The largest error of any sequence as a share of its largest true value."""
    truth = truth if h.ndim == truth.ndim else truth.reshape(h.shape)
    off = np.max(np.abs(h.astype(truth.dtype) - truth), axis=0)
    return float(np.max(off / np.max(np.abs(truth), axis=0)))


# ---- layouts of the same sequences in memory: (T, sequences) in and out


def _rows(run: Run, a: Array, x: Array, h0: Array) -> Array:
    a, x = (np.array(v.T, order="C") for v in (a, x))
    return run(a, x, h0, 1).T


def _single(run: Run, a: Array, x: Array, h0: Array) -> Array:
    columns = range(x.shape[1])
    return np.stack(
        [run(*(np.array(v[..., c], order="C") for v in (a, x, h0)), 0) for c in columns], 1
    )


def _columns(run: Run, a: Array, x: Array, h0: Array, together: int) -> Array:
    parts = [slice(c, c + together) for c in range(0, x.shape[1], together)]
    return np.concatenate(
        [run(*(np.array(v[..., part], order="C") for v in (a, x, h0)), 0) for part in parts], 1
    )


LAYOUTS: dict[str, Callable[[Run, Array, Array, Array], Array]] = {
    "(n, T) axis 1": _rows,
    "(T,)": _single,
    "(T, 4) axis 0": functools.partial(_columns, together=4),
    "(T, 16) axis 0": functools.partial(_columns, together=16),
}


def ratio(case: Case, given: Inputs, truth: Array, loop: float, layout: str, run: Run) -> float:
    """The largest error of `run` on this layout, divided by that of the serial loop or of one rounding."""
    rounding = COMPLEX_ROUNDING if case.dtype == "complex64" else ROUNDING
    return error(LAYOUTS[layout](run, *given), truth) / max(loop, rounding)


# ---- the benchmark


def numpy_run(work: str) -> Run:
    """NumPy's calls for a work."""
    if work == "backward":
        return lambda a, x, h0, axis: scanlib.linear_recurrence_vjp(
            x, a, x, axis=axis, grad_final=h0
        )[1]
    return lambda a, x, h0, axis: scanlib.linear_recurrence(
        a, x, h0, axis=axis, reverse=work == "reverse"
    )


def jobs() -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    """Every comparison as (title, function that makes it)."""
    for T in LENGTHS:
        for dtype in DTYPES:
            for decay in DECAYS:
                for work in WORKS:
                    case = Case(
                        dtype, decay, T, 64 if T <= 1000 else 32 if T <= 100_000 else 16, work
                    )
                    title = f"accuracy T = {T:,}, {dtype}, a {decay}, {work}"
                    yield title, functools.partial(compare, case)


def compare(case: Case) -> list[Row]:
    """The NumPy path's errors in each layout."""
    given = inputs(case)
    truth, loop = truth_and_loop(case, given)
    run = numpy_run(case.work)
    return [
        {
            **case._asdict(),
            "layout": layout,
            "serial_error": loop,
            "ratio": ratio(case, given, truth, loop, layout, run),
        }
        for layout in LAYOUTS
    ]
