"""NaN, Inf and overflow in inputs, and what the serial loop of the same arithmetic makes of them.

The loop is the oracle's, run in the dtype the result accumulates in. What must agree is where NaN, +Inf and -Inf
stand, and the finite values beside them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from helpers import decay, normal, rng_for, state_shape
from matrix import Member, np_dtype
from native_calls import instruction_set
from oracle import Array, gradients, recurrence

import scanlib

#: dtype -> (what it accumulates in, its largest power of ten)
ACCUMULATES = {
    "float16": (np.float32, 4),
    "bfloat16": (np.float32, 38),
    "float32": (np.float32, 38),
    "float64": (np.float64, 308),
}

#: Columns and rows, with time whole or cut into segments, as libscanlib does above half a megabyte in few sequences.
SHAPES = [
    ((700, 5), 0),
    ((33, 700), 1),
    ((2, 300, 9), 1),
    ((2100, 64), 0),
    ((140_001,), 0),
    ((2, 70_001), 1),
    ((45_000, 3), 0),
]

Pattern = Callable[[np.random.Generator, Array, Array, int], None]
#: the operands of a call, in its order; None where left out
Given = tuple[Array | None, ...]


def at(rng: np.random.Generator, v: Array, count: int) -> Any:
    return tuple(rng.integers(n, size=count) for n in v.shape)


def _nan_in_x(rng: np.random.Generator, a: Array, x: Array, digits: int) -> None:
    x[at(rng, x, 3)] = np.nan


def _infinities_in_x(rng: np.random.Generator, a: Array, x: Array, digits: int) -> None:
    x[at(rng, x, 2)] = np.inf
    x[at(rng, x, 2)] = -np.inf


def _infinity_meets_zero_decay(rng: np.random.Generator, a: Array, x: Array, digits: int) -> None:
    a[at(rng, a, a.size // 400 + 1)] = 0
    x[at(rng, x, 5)] = np.inf


def _infinity_in_a(rng: np.random.Generator, a: Array, x: Array, digits: int) -> None:
    a[at(rng, a, 3)] = np.inf
    a[at(rng, a, 3)] = np.nan


def _overflow(rng: np.random.Generator, a: Array, x: Array, digits: int) -> None:
    a[...] = np.where(rng.uniform(size=a.shape) < 0.3, -2.0, 2.0)
    a[at(rng, a, a.size // 2000 + 1)] = 0


def _products_overflow_over_zeros(
    rng: np.random.Generator, a: Array, x: Array, digits: int
) -> None:
    """States are zero while products of a are infinite: Inf * 0 in a parallel combine only."""
    a[...] = 10.0 ** (digits // 2)
    x[...] = 0
    x[(slice(-1, None),) * x.ndim] = 1


def _products_vanish_under_infinity(
    rng: np.random.Generator, a: Array, x: Array, digits: int
) -> None:
    """A state is infinite while products of a underflow to zero: 0 * Inf in a parallel combine only."""
    a[...] = 10.0 ** -(digits // 2)
    x[(slice(0, 1),) * x.ndim] = np.inf


def _products_overflow_then_vanish(
    rng: np.random.Generator, a: Array, x: Array, digits: int
) -> None:
    """Zeros of a cut the chain where products have overflowed already."""
    a[...] = 10.0 ** (digits // 3)
    a[at(rng, a, a.size // 40 + 1)] = 0
    x[...] = np.where(rng.uniform(size=x.shape) < 0.99, x.dtype.type(0), x)


PATTERNS: list[Pattern] = [
    _nan_in_x,
    _infinities_in_x,
    _infinity_meets_zero_decay,
    _infinity_in_a,
    _overflow,
    _products_overflow_over_zeros,
    _products_vanish_under_infinity,
    _products_overflow_then_vanish,
]


def case(pattern: Pattern, shape: tuple[int, ...], dtype: str) -> tuple[Array, Array, Array]:
    rng = rng_for(pattern.__name__, shape, dtype)
    a, x, h0 = decay(rng, shape, dtype), normal(rng, shape, dtype), normal(rng, shape, dtype)
    pattern(rng, a, x, ACCUMULATES[dtype][1])
    return a, x, h0


def assert_same_kinds(actual: Array, expected: Array, dtype: str, label: str) -> None:
    """NaN, +Inf and -Inf in the same places, finite values close."""
    expected = expected.astype(np_dtype(dtype)).astype(np.float64)
    actual = actual.astype(np.float64)
    for kind, test in (("NaN", np.isnan), ("+Inf", np.isposinf), ("-Inf", np.isneginf)):
        wrong = np.argwhere(test(actual) != test(expected))
        if len(wrong):
            where = tuple(int(i) for i in wrong[0])
            raise AssertionError(
                f"{label}: {kind} differs at {len(wrong)} of {actual.size} places, first at {where}: "
                f"{actual[where]} for {expected[where]}"
            )
    finite = np.isfinite(expected)
    size = np.max(np.abs(expected[finite]), initial=0)
    tolerance = 0.02 if dtype.endswith("16") else 1e-4
    assert np.allclose(actual[finite], expected[finite], rtol=tolerance, atol=tolerance * size), (
        label
    )


def _agree(
    lib: Member,
    cases: list[tuple[Pattern, Given]],
    dtype: str,
    sets: tuple[str, ...],
    label: str,
    loop: Callable[..., Any],
    run: Callable[..., Any],
) -> None:
    """`run`, on arrays of `lib` and once for each instruction set, gives what the serial loop does.

    The loop takes all cases side by side: its steps are what takes time. Operands that are left out are zeros to it.
    """
    none = np.zeros_like(cases[-1][1][-1])
    operands = zip(*(given for _, given in cases), strict=True)
    stacks = [np.stack([none if v is None else v for v in operand]) for operand in operands]
    with np.errstate(all="ignore"):
        expected = loop(*stacks, dtype=ACCUMULATES[dtype][0])
        for number, (pattern, given) in enumerate(cases):
            arrays = [None if v is None else lib.array(v) for v in given]
            for isa in sets:
                with instruction_set(isa):
                    found = run(*arrays)
                for index, (actual, want) in enumerate(zip(found, expected, strict=True)):
                    if actual is not None:
                        name = f"result {index} of {pattern.__name__} {label} {isa}"
                        assert_same_kinds(lib.numpy(actual), want[number], dtype, name)


def forward_agrees(
    lib: Member,
    shape: tuple[int, ...],
    axis: int,
    dtype: str,
    reverse: bool,
    sets: tuple[str, ...] = ("",),
) -> None:
    """Every pattern, without and with h0, once for each of these instruction sets."""
    cases: list[tuple[Pattern, Given]] = []
    for pattern in PATTERNS:
        a, x, h0 = case(pattern, shape, dtype)
        if reverse:
            a, x = np.flip(a).copy(), np.flip(x).copy()
        cases += [(pattern, (a, x, None)), (pattern, (a, x, np.take(h0, 0, axis)))]
    _agree(
        lib,
        cases,
        dtype,
        sets,
        f"{shape} {dtype}, forward, axis {axis}, reverse {reverse}",
        functools.partial(recurrence, axis=axis + 1, reverse=reverse),
        functools.partial(lib.scan, axis=axis, reverse=reverse, return_final=True),
    )


def backward_agrees(
    lib: Member,
    shape: tuple[int, ...],
    axis: int,
    dtype: str,
    reverse: bool,
    sets: tuple[str, ...] = ("",),
) -> None:
    """The patterns in a and grad_h, zeros and infinities in h."""
    rng = rng_for(shape)
    h = normal(rng, shape, dtype)
    h[at(rng, h, 4)] = [0, np.inf, 0, np.nan]
    state = normal(rng, state_shape(shape, axis), dtype)
    cases: list[tuple[Pattern, Given]] = []
    for pattern in PATTERNS:
        a, g, _ = case(pattern, shape, dtype)
        if not reverse:
            a, g = np.flip(a).copy(), np.flip(g).copy()
        cases += [(pattern, (g, a, h, None, None)), (pattern, (g, a, h, state, state))]

    def run(g: Any, a: Any, h: Any, h0: Any, grad_final: Any) -> Any:
        return scanlib.linear_recurrence_vjp(
            g, a, h, h0, axis=axis, reverse=reverse, grad_final=grad_final
        )

    loop = functools.partial(gradients, axis=axis + 1, reverse=reverse)
    label = f"{shape} {dtype}, backward, axis {axis}, reverse {reverse}"
    _agree(lib, cases, dtype, sets, label, loop, run)
